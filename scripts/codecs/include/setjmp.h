// WebAssembly has no setjmp. The codecs jump only out of errors, which end the module by a trap here.
#ifndef SETJMP_H
#define SETJMP_H

typedef int jmp_buf[1];
#define setjmp(buffer) ((void)(buffer), 0)
#define longjmp(buffer, value) __builtin_trap()

#endif
