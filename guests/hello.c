// Prints one line through stdio. The smallest program that the C library makes.
#include <stdio.h>

int main(void) {
    printf("hello from %s\n", "C");
    return 0;
}
