#!/usr/bin/env bash
# Builds the C with AddressSanitizer and UBSan in build/sanitize, and runs the tests that reach it. Usage: sanitize.sh [PYTEST ARGUMENTS]
set -euo pipefail
cd "$(dirname "$0")/.."
place=$PWD/build/sanitize
reports=$place/reports
compiler=${CC:-gcc}

# -O1 keeps every access; whatever UBSan finds ends the process as well. The programs are dynamic here: there is no static libasan
# for programs without position-independent code.
flags=(-std=gnu11 -O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=undefined)
rm -rf "$place"
mkdir -p "$place/appswitch/_bin" "$reports"
chmod 1777 "$reports" # apps of other users report, too
cp -r src/appswitch/. "$place/appswitch/"
rm -rf "$place"/appswitch/*.so "$place"/appswitch/_bin/*
include=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("include"))')
"$compiler" "${flags[@]}" -DPy_LIMITED_API=0x030B0000 -isystem "$include" -shared -fPIC native/kernel/*.c -o "$place/appswitch/_kernel.abi3.so"
for name in launch:launcher splice:splicer; do
    "$compiler" "${flags[@]}" "native/${name#*:}.c" -o "$place/appswitch/_bin/ax-${name%:*}"
done

for made in "$place"/appswitch/_kernel.abi3.so "$place"/appswitch/_bin/ax-*; do
    grep -q __asan_report "$made" || { echo "sanitize: $made is not instrumented" >&2; exit 1; }
done
.venv/bin/python -m compileall -q "$place/appswitch"

# The module is loaded by a Python that is not instrumented, so the runtime has to be there before it: each Python of ours becomes
# one with LD_PRELOAD, and takes it out of what programs inherit, since whatever is wrong with those is not ours to find.
cat >"$place/sitecustomize.py" <<END
import os, sys
if sys.prefix != sys.base_prefix:
    if "libasan" in open("/proc/self/maps").read():
        os.environ.pop("LD_PRELOAD", None)
    else:
        os.environ["LD_PRELOAD"] = "$("$compiler" -print-file-name=libasan.so)"
        os.execv(sys.executable, sys.orig_argv)
END
export PYTHONPATH=$place PYTHONMALLOC=malloc # or Python's own pools would hide what is beyond an object
# No search for leaks: CPython keeps much until the end on purpose, the launcher never ends (it becomes another program), and
# descriptors, which matter more here, are counted by the tests. Reports go to files: who has found something may be a
# process of the daemon, or an app that nobody reads.
export ASAN_OPTIONS=detect_leaks=0:abort_on_error=1:handle_abort=0:allocator_may_return_null=1:log_path=$reports/asan
export UBSAN_OPTIONS=print_stacktrace=1:log_path=$reports/ubsan
export AX_SANITIZED=1

status=0
.venv/bin/python -c 'import appswitch._kernel as one; assert "sanitize" in one.__file__, one.__file__'
.venv/bin/python -m pytest -q -n 2 --dist loadgroup --timeout 240 "$@" || status=$?
shopt -s nullglob
for report in "$reports"/*; do
    if grep -qE 'ERROR: |runtime error' "$report"; then # others are warnings, such as of a stack that clone(2) was given
        echo "sanitize: $report" >&2
        cat "$report" >&2
        status=1
    fi
done
exit "$status"
