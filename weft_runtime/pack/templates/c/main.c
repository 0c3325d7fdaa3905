#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++)
        printf("Hello, %s!\n", argv[i]);
    /* The library keeps output back until its buffer is full: flush what somebody should see at once. */
    return fflush(stdout) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
