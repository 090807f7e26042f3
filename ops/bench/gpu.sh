#!/bin/sh
# All that is said of a GPU, in one run of at most eight minutes on an H200, as a table and one JSON line.
# --dry-run does all of it, tiny, on the CPU. TORCH_COMPILE_DISABLE=1 shows what compiling is worth.
set -eu
mkdir -p runs/gpu
abstream bench gpu "$@" > runs/gpu/table.md
cat runs/gpu/table.md
