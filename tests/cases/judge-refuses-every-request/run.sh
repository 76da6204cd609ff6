#!/usr/bin/env bash
. "$(dirname "$0")/../lib/lib.sh"
judge a '{"text":"0","refuse":["max_tokens","temperature"]}'
milr benchmark icons --limit 4 --steps 0 --evaluator gpt-4o --vlm-url $URL --vlm-model gpt-5 --out r > log 2>&1; rc=$?
scored=$(grep -c "of 553 prompts" log)
if [ "$scored" -gt 0 ]; then pass "scored: the request was mended"; elif [ $rc = 0 ]; then fail "exit 0, nothing scored; said: $(grep Overall log)"; else pass "exit $rc: $(tail -1 log | cut -c1-160)"; fi
grep -q "Unsupported parameter" log && pass "the reason is shown" || { [ "$scored" -gt 0 ] || fail "the judge's reason is not shown anywhere"; }
end
