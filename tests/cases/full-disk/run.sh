#!/usr/bin/env bash
. "$(dirname "$0")/../lib/lib.sh"
[ "$(id -u)" = 0 ] || { echo "skipped: needs root to mount"; exit 0; }
milr benchmark icons --limit 4 --steps 0 --out r > /dev/null 2>&1; milr pack r > /dev/null 2>&1
mkdir small; mount -t tmpfs -o size=600k tmpfs small; trap 'umount "$WORK/small"; cd /; rm -rf "$WORK"' EXIT
cp -r r small/r; head -c 700k /dev/zero > small/fill 2>/dev/null
milr evaluate small/r --evaluator icons-judge > log 2>&1; no_traceback "evaluate" log $?
rm -rf small/*; head -c 595k /dev/zero > small/fill
milr unpack r.run.xz --out small/u > log 2>&1; no_traceback "unpack" log $?
cd "$WORK"; end
