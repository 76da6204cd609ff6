#!/usr/bin/env bash
. "$(dirname "$0")/../lib/lib.sh"
milr benchmark icons --limit 2 --steps 0 --out base > /dev/null 2>&1
try() { for c in "compare r" "report r --out r.html" "export r --layout geneval --partial --out ex" "evaluate r --evaluator icons-judge" "pack r --out P" "benchmark --resume r"; do
  rm -rf r ex P; cp -r base r; T=r/tasks/$(ls r/tasks | head -1); eval "$2"; milr $c > log 2>&1; rc=$?
  if grep -q "Traceback (most" log; then fail "$1, milr ${c%% *}: $(tail -1 log | cut -c1-110)"; elif grep -q "cannot write" log; then fail "$1, milr ${c%% *}: says $(grep -o 'cannot write.*' log | cut -c1-80)"; elif [ "$c" = "benchmark --resume r" ] && [ $rc != 0 ]; then fail "$1, resume does not go on: $(tail -1 log | cut -c1-110)"; else pass "$1, milr ${c%% *}: exit $rc"; fi; done; }
try "empty records" ': > $T/records.jsonl'
try "NUL records" 'head -c 900 /dev/zero > $T/records.jsonl'
try "records gone" 'rm $T/records.jsonl'
try "pictures gone" 'rm -r $T/steps'
try "stray folder" 'mkdir r/tasks/0000-copy'
end
