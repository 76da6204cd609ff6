#!/usr/bin/env bash
. "$(dirname "$0")/../lib/lib.sh"
"$PY" -c "import json; print(json.dumps({'text': 'Score' + ' ' * 3000 + 'x'}))" > a.json
judge slow "$(cat a.json)"; picture p.png; echo '{"prompt": "two dogs", "explanation": "two dogs"}' > t.jsonl
for o in vlm; do
  timeout 40 milr score p.png --tasks t.jsonl --reward wise --$o-url "$URL" --$o-model m > log 2>&1; rc=$?
  grep -q "No such option" log || break
done
[ $rc = 124 ] && fail "still busy after 40 s" || { grep -q "No such option" log && fail "$(cat log)" || pass "ended: exit $rc"; }
end
