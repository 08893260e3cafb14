// An interpreter loop: a stack machine with a switch, running a program with loops, calls and array accesses.
#define DEFAULT_ITERATIONS 140
#include "kernel.h"

typedef enum { PUSH, LOAD, STORE, ADD, SUB, MUL, MOD, LESS, EQUAL, JUMP, JUMP_IF, CALL, RETURN, FETCH, PUT, DUP, DROP, XOR, HALT } Opcode;

typedef struct {
    uint8_t opcode;
    int32_t operand;
} Instruction;

static int64_t memory[8192];
static int64_t locals[64];
static int64_t stack[256];
static uint32_t returns[64];

// Sieve of 8,000 numbers, then a sum through a subroutine, written as a person would write it for such a machine.
static const Instruction program[] = {
    // for i = 2; i < 8000; i++: memory[i] = 1
    {PUSH, 2}, {STORE, 0},                                                // 0
    {LOAD, 0}, {PUSH, 1}, {PUT, 0},                                       // 2
    {LOAD, 0}, {PUSH, 1}, {ADD, 0}, {DUP, 0}, {STORE, 0},                 // 5
    {PUSH, 8000}, {LESS, 0}, {JUMP_IF, 2},                                // 10
    // for i = 2; i < 90; i++ if memory[i]: for j = i * i; j < 8000; j += i: memory[j] = 0
    {PUSH, 2}, {STORE, 0},                                                // 13
    {LOAD, 0}, {FETCH, 0}, {PUSH, 0}, {EQUAL, 0}, {JUMP_IF, 33},          // 15
    {LOAD, 0}, {DUP, 0}, {MUL, 0}, {STORE, 1},                            // 20
    {LOAD, 1}, {PUSH, 0}, {PUT, 0},                                       // 24
    {LOAD, 1}, {LOAD, 0}, {ADD, 0}, {CALL, 55}, {JUMP_IF, 24}, {DROP, -1},// 27
    {LOAD, 0}, {PUSH, 1}, {ADD, 0}, {DUP, 0}, {STORE, 0},                 // 33
    {PUSH, 90}, {LESS, 0}, {JUMP_IF, 15},                                 // 38
    // for i = 2; i < 8000; i++: sum = (sum * 3 + memory[i] * i) % 1000003
    {PUSH, 2}, {STORE, 0},                                                // 41
    {CALL, 60},                                                           // 43
    {LOAD, 0}, {PUSH, 1}, {ADD, 0}, {DUP, 0}, {STORE, 0},                 // 44
    {PUSH, 8000}, {LESS, 0}, {JUMP_IF, 43},                               // 49
    {LOAD, 2}, {HALT, 0}, {HALT, 0},                                      // 52
    // subroutine at 55: j = top; top = j < 8000
    {DUP, 0}, {STORE, 1}, {PUSH, 8000}, {LESS, 0}, {RETURN, 0},           // 55
    // subroutine at 60
    {LOAD, 2}, {PUSH, 3}, {MUL, 0}, {LOAD, 0}, {DUP, 0}, {FETCH, 0}, {MUL, 0}, {ADD, 0}, {PUSH, 1000003}, {MOD, 0}, {STORE, 2}, {RETURN, 0},
};

static NOINLINE int64_t interpret(const Instruction *code) {
    uint32_t pc = 0, depth = 0;
    int64_t *top = stack;
    for (;;) {
        Instruction now = code[pc++];
        switch (now.opcode) {
            case PUSH: *top++ = now.operand; break;
            case LOAD: *top++ = locals[now.operand]; break;
            case STORE: locals[now.operand] = *--top; break;
            case ADD: top--, top[-1] += top[0]; break;
            case SUB: top--, top[-1] -= top[0]; break;
            case MUL: top--, top[-1] *= top[0]; break;
            case MOD: top--, top[-1] %= top[0]; break;
            case LESS: top--, top[-1] = top[-1] < top[0]; break;
            case EQUAL: top--, top[-1] = top[-1] == top[0]; break;
            case JUMP: pc = (uint32_t)now.operand; break;
            case JUMP_IF: if (*--top) pc = (uint32_t)now.operand; break;
            case CALL: returns[depth++] = pc, pc = (uint32_t)now.operand; break;
            case RETURN: pc = returns[--depth]; break;
            case FETCH: top[-1] = memory[top[-1] & 8191]; break;
            case PUT: top -= 2, memory[top[0] & 8191] = top[1]; break;
            case DUP: *top = top[-1], top++; break;
            case DROP: if (now.operand >= 0) top--; break;
            case XOR: top--, top[-1] ^= top[0]; break;
            default: return top[-1];
        }
    }
}

static void setup(void) {}

static uint64_t iterate(uint32_t n) {
    locals[2] = n;
    uint64_t sum = 0;
    for (int i = 0; i < 8; i++) sum = mix(sum, (uint64_t)interpret(program));
    return sum;
}
