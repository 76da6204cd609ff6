#!/usr/bin/env bash
. "$(dirname "$0")/../lib/lib.sh"
picture blank.png white
for a in '{"text":"There are 0 apples","finish":"length"}' '{"text":"Found 0 apples."}' '{"text":"I can find 0 matching objects. The image does not match."}' '{"text":"It looks like -1 degrees outside; the scene is right."}'; do
  judge a "$a"; out=$(milr score blank.png --prompt "three apples" --reward gpt-4o --vlm-url $URL --vlm-model m$RANDOM 2>&1 | head -1)
  case $out in unscored*) pass "$a -> unscored";; *) fail "$a -> $out";; esac
done; end
