#!/usr/bin/env bash
. "$(dirname "$0")/../lib/lib.sh"
picture p.png
for a in '{"logprobs":[["<think>",-0.00001],["No",-18.0],["Yes",-25.0]]}' '{"logprobs":[["The",-0.001],["Yes",-18.0]]}' '{"logprobs":[["▁Yes",-0.05],["No",-3.0]]}'; do
  judge a "$a"; out=$(milr score p.png --prompt "an apple" --reward gpt-4o:p-yes --vlm-url $URL --vlm-model m$RANDOM 2>&1 | head -1)
  case "$a $out" in *▁Yes*\ 0.9*) pass "$a -> $out";; *▁*) fail "$a -> $out (wanted 0.95)";; *unscored*) pass "$a -> $out";; *) fail "$a -> $out (wanted unscored)";; esac
done; end
