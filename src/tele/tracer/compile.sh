#!/bin/sh
# Compiles session.bpf.c to session.bpf.o, or to the file that is named. The same versions of clang and
# libbpf's headers give the same bytes: Debian's clang-14, llvm-14 and libbpf-dev (Debian 12).
set -eu
output=${1:-$(dirname "$0")/session.bpf.o}
case $output in /*) ;; *) output=$PWD/$output ;; esac
cd "$(dirname "$0")"
${CLANG:-clang-14} -O2 -g -target bpf -mcpu=v3 -Wall -Werror -D__TARGET_ARCH_x86 \
    -I"/usr/include/$(uname -m)-linux-gnu" -fdebug-prefix-map="$PWD=." -fdebug-compilation-dir=. \
    -c session.bpf.c -o "$output"
${LLVM_STRIP:-llvm-strip-14} -g "$output"
