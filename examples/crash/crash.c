/* SPDX-License-Identifier: Apache-2.0 */
/* Prints a line on each stream, then traps three calls deep. The module keeps its function names,
   so the backtrace reads check_length, read_setting, read_settings, and main by its inner name,
   __original_main. */

#include <stdio.h>

/* Without this the compiler makes one function out of the four. */
#define OWN_FRAME __attribute__((noinline))

OWN_FRAME static int check_length(int length)
{
    if (length < 0)
        __builtin_trap(); /* the Wasm instruction "unreachable" */
    return length;
}

OWN_FRAME static int read_setting(int number)
{
    return check_length(10 - number) + 1;
}

OWN_FRAME static int read_settings(int count)
{
    int total = 0;
    for (int number = 1; number <= count; number++)
        total += read_setting(number);
    return total;
}

int main(void)
{
    puts("crash: this line is on standard output");
    fflush(stdout);
    fputs("crash: this line is on standard error, a trap follows\n", stderr);
    return read_settings(20) > 0;
}
