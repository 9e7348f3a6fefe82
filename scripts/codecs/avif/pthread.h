// A module has one thread, so that a lock is always free and no other thread can be started.
#ifndef PTHREAD_H
#define PTHREAD_H

#include <stddef.h>

typedef int pthread_t, pthread_attr_t, pthread_mutex_t, pthread_cond_t, pthread_once_t;
#define PTHREAD_ONCE_INIT 0
#define PTHREAD_MUTEX_INITIALIZER 0

static inline int pthread_attr_init(pthread_attr_t* a) { return (void)a, 0; }
static inline int pthread_attr_destroy(pthread_attr_t* a) { return (void)a, 0; }
static inline int pthread_attr_setstacksize(pthread_attr_t* a, size_t size) { return (void)a, (void)size, 0; }
static inline int pthread_create(pthread_t* t, const pthread_attr_t* a, void* (*f)(void*), void* x) {
  return (void)t, (void)a, (void)f, (void)x, 1;
}
static inline int pthread_join(pthread_t t, void** x) { return (void)t, (void)x, 0; }
static inline int pthread_once(pthread_once_t* once, void (*f)(void)) {
  if (!*once) *once = 1, f();
  return 0;
}
static inline int pthread_mutex_init(pthread_mutex_t* m, const void* a) { return (void)m, (void)a, 0; }
static inline int pthread_mutex_destroy(pthread_mutex_t* m) { return (void)m, 0; }
static inline int pthread_mutex_lock(pthread_mutex_t* m) { return (void)m, 0; }
static inline int pthread_mutex_unlock(pthread_mutex_t* m) { return (void)m, 0; }
static inline int pthread_cond_init(pthread_cond_t* c, const void* a) { return (void)c, (void)a, 0; }
static inline int pthread_cond_destroy(pthread_cond_t* c) { return (void)c, 0; }
static inline int pthread_cond_wait(pthread_cond_t* c, pthread_mutex_t* m) { return (void)c, (void)m, 0; }
static inline int pthread_cond_signal(pthread_cond_t* c) { return (void)c, 0; }
static inline int pthread_cond_broadcast(pthread_cond_t* c) { return (void)c, 0; }

#endif
