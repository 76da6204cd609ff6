#!/usr/bin/env bash
. "$(dirname "$0")/../lib/lib.sh"
judge j '{"raw":"oops","status":500}'
milr benchmark icons --limit 2 --steps 0 --evaluator gpt-4o --vlm-url $URL --vlm-model m --out r > log 2>&1; rc=$?
echo "run while the judge was down: exit $rc; $(grep unscored, log)"
echo '{"text":"0"}' > j.json
milr benchmark --resume r --vlm-url $URL --vlm-model m > log1 2>&1
milr evaluate r --evaluator gpt-4o --vlm-url $URL --vlm-model m > log2 2>&1
milr compare r 2>&1 | grep -q "1.00 \[" && pass "judged now" || fail "the judge is up again, and: resume: $(grep unscored, log1); judge: $(tail -1 log2)"
end
