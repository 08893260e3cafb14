// Prints its arguments and its environment, one to a line, so that a test sees exactly what the guest was given.
// Arguments are printed as "arg <index> <text>", variables as "env <NAME=value>".
#include <stdio.h>

extern char **environ;

int main(int argc, char **argv) {
    for (int i = 0; i < argc; i++) printf("arg %d %s\n", i, argv[i]);
    for (char **p = environ; p && *p; p++) printf("env %s\n", *p);
    return 0;
}
