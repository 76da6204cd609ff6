#!/usr/bin/env bash
. "$(dirname "$0")/../lib/lib.sh"
cat > t.py <<'X'
from milr.rewards.vlm.parsers import *
bad = 0
def want(name, read, text, cut, value):
    global bad
    try: got = read(Answer(text, cut=cut)).value
    except Unreadable as e: got = None
    ok = got == value; bad |= not ok
    print("ok:  " if ok else "FAIL:", name, "->", got, "wanted", value)
W = "Consistency: {0}\nRealism: {0}\nAesthetic Quality: {0}"
want("wise-legacy, cut while it drafts", read_wise_legacy, "<think>A perfect one gets\n" + W.format(2) + "\nNow, the picture shows", True, None)
want("wise, cut", read_wise, "<think>If all holds I say Score: 1. Let me", True, None)
want("unified-reward, cut", read_unified, "<think>Perfect is Final Score: 5. But", True, None)
want("wise-legacy, digits in the thinking", read_wise_legacy, "<think>\n2\n2\n2\n</think>\n0\n0\n0", False, 0.0)
want("wise-legacy, answered behind the thinking", read_wise_legacy, "<think>" + W.format(1) + "?</think>" + W.format(2), False, 1.0)
want("wise, behind", read_wise, "<think>Score: 1?</think>Score: 0", False, 0.0)
want("unified-reward, behind", read_unified, "<think>Final Score: 2?</think>Final Score: 4", False, 0.75)
want("gpt-4o, behind", read_binary, "<think>Two apples, so -1? No.</think>0", False, 1.0)
want("self, behind", read_self_verdict, '<think>{"Score": -1}?</think>{"Score": 0, "Reason": "x"}', False, 1.0)
want("wise, talks of a score", read_wise, "It would be Score: 1 if the dog were there; it is not.", False, None)
raise SystemExit(bad)
X
"$PY" t.py || BAD=1; end
