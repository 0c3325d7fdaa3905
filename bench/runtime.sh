#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# A runtime that costs next to nothing, so that what is seen is the daemon. The app's name says what it does;
# any other app goes to $0.real, if that is there.
case $1 in
bench.cheap.ready) echo READY ;;
bench.cheap.n*)
    echo READY
    yes 'the quick brown fox jumps over the lazy dog' | head -n "${1##*.n}"
    ;;
*) exec "$0.real" "$@" ;;
esac
