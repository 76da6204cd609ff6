#!/usr/bin/env bash
. "$(dirname "$0")/../lib/lib.sh"
cat > t.py <<'X'
from milr import load_model, load_reward, search, tasks_from_prompts
from milr.errors import UsageError
m, r = load_model("embedded"), load_reward("icons")
words = ["a truck", "a frisbee", "an apple", "a red clock", "a blue car", "a dog", "a green bench", "a bear"]
forms = {"as GenEval writes": str, "First capital": str.capitalize, "UPPER": str.upper, "Title Case": str.title, "final dot": lambda s: s + ".", "double blanks": lambda s: s.replace(" ", "  "),
 "no-break space": lambda s: s.replace(" ", "\u00a0"), "tab": lambda s: s.replace(" ", "\t"), "newline": lambda s: s.replace(" ", "\n"), "ideographic space": lambda s: s.replace(" ", "\u3000")}
base, bad, seen = None, 0, {}  # forms that are read as the same prompts have the same pictures
for name, form in forms.items():
    try: tasks = tasks_from_prompts([form(w) for w in words])
    except UsageError: print("ok:  ", name, "refused"); continue
    cfg, read = m.settings("text-reasoning"), tuple(task.prompt for task in tasks)
    if read not in seen: seen[read] = sum(x.best_score.value for x in search(tasks, m, r, cfg)) / len(words)
    got = seen[read]
    base = got if base is None else base
    ok = got >= base - 0.26; bad |= not ok
    print("ok:  " if ok else "FAIL:", f"{name}: {got:.2f} right (as GenEval writes: {base:.2f})", flush=True)
raise SystemExit(bad)
X
"$PY" t.py || BAD=1; end
