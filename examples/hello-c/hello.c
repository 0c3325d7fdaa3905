/* SPDX-License-Identifier: Apache-2.0 */
/* Announces itself, greets its arguments, and ends with exit status 0. */

#include <stdio.h>
#include <stdlib.h>

/* READY in guest mode: a line of its own, and flushed, because stdout is a pipe or the journal
   and the C library keeps what is written to those until its buffer is full. */
static void announce_ready(void)
{
    if (puts("READY") == EOF || fflush(stdout) != 0)
        exit(EXIT_FAILURE);
}

int main(int argc, char **argv)
{
    announce_ready();
    for (int i = 1; i < argc; i++) {
        fputs("Hello from C, ", stdout);
        fputs(argv[i], stdout);
        puts("!");
    }
    if (argc < 2)
        puts("Hello from C!");
    return fflush(stdout) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
