// Leaves with the status given as the first argument, after output that is still buffered has been written.
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: exit STATUS\n");
        return 64;
    }
    printf("leaving with %s\n", argv[1]);
    exit(atoi(argv[1]));
}
