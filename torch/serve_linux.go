package torch

/*
#include <errno.h>
#include <stdint.h>
#include <time.h>
#include <unistd.h>
#include "torchherd.h"

// A request of a batch, and its reply. Both end with nothing else.
typedef struct {
  uint32_t op, height, width, channels, inputs, out_height, out_width, out_channels, outputs, parts;
  uint64_t offsets[]; // of the inputs, and then of the outputs
} request;

typedef struct {
  uint32_t status, height, width, channels;
  uint64_t cpu;
} reply;

typedef struct {
  int socket;
  uint32_t op, ok;
  thd_module* module;
  uint8_t* memory;
  uint8_t* buffer;
  size_t capacity;
  const uint8_t** in;
  uint8_t** out;
  uint32_t limited, channels, height, width, least, most; // of a package's input
} server;

typedef struct {
  int64_t length; // of the message in the buffer; 0: the other end is closed; below 0: errno
  uint64_t cpu;
  thd_result* result;
  thd_tensor_view view;
  thd_error* error;
} served;

static uint64_t thread_time(void) {
  struct timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static int allowed(const server* s, const request* r) {
  return !s->limited || (r->height == s->height && r->width == s->width && s->channels == 3 && r->inputs >= s->least &&
                         r->inputs <= s->most);
}

static void serve(const server* s, served* out) {
  for (;;) {
    ssize_t n;
    do n = read(s->socket, s->buffer, s->capacity); while (n < 0 && errno == EINTR);
    out->length = n < 0 ? -errno : n;
    const request* r = (const request*)s->buffer;
    if (n < (ssize_t)sizeof(request) || r->op != s->op || r->outputs == 0 || r->channels != 3 || r->parts != 0 || !allowed(s, r)) return;
    const uint64_t start = thread_time();
    for (uint32_t i = 0; i < r->inputs; i++) {
      s->in[i] = s->memory + r->offsets[i];
      s->out[i] = s->memory + r->offsets[r->inputs + i];
    }
    out->error = thd_module_forward_images(s->module, s->in, (int32_t)r->inputs, (int32_t)r->height, (int32_t)r->width,
                                           &out->result, &out->view);
    out->cpu = thread_time() - start;
    if (out->error != NULL) return;
    const int64_t* shape = out->view.shape;
    if (shape[0] != r->outputs || shape[1] != r->out_channels || shape[2] != r->out_height || shape[3] != r->out_width) return;
    out->error = thd_result_read_images(out->result, s->out, (int32_t)r->outputs);
    thd_result_free(out->result);
    out->result = NULL;
    out->cpu = thread_time() - start;
    if (out->error != NULL) return;
    const reply sent = {s->ok, r->out_height, r->out_width, r->out_channels, out->cpu};
    do n = write(s->socket, &sent, sizeof(sent)); while (n < 0 && errno == EINTR);
    if (n < 0) {
      out->length = -errno;
      return;
    }
  }
}
*/
import "C"

import (
	"runtime"
	"syscall"
	"time"
)

// A Served is a request that ServeImages leaves to its caller.
type Served struct {
	Message []byte        // the request; empty: the other end of the socket is closed
	CPU     time.Duration // processor time that the batch took, if it ran
	Answer  *Answer       // the results of the batch, if they don't have the shape that the request says
	Err     error         // of the batch, if it failed
}

// ServeImages runs the batches that requests on a socket ask for, until one arrives that it leaves to the caller. The
// socket keeps the boundaries of messages.
//
// All numbers of a request are little-endian. There are ten of 32 bits: op, the height, width and channels of an input,
// the number of inputs, the height, width and channels of a result, the number of results, and the number of bytes of the
// further inputs, which only the caller reads. Then
// come the offsets in memory, of 64 bits, of the inputs and of the results. The reply to a batch whose results have been
// written is ok, the height, width and channels of a result, and the nanoseconds of processor time, of 64 bits. memory must
// not be Go's, and buffer holds the largest request. The requests are trusted.
//
// The loop is in C. A loop in Go wakes its scheduler for each batch, which costs as much as a small model.
func (m *Module) ServeImages(socket int, op, ok uint32, memory, buffer []byte) (Served, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.handle == nil {
		return Served{}, &Error{Op: "serve", Kind: ErrClosed}
	}
	most := len(buffer) / 16
	in, out := make([]*C.uint8_t, most), make([]*C.uint8_t, most)
	var pinner runtime.Pinner
	defer pinner.Unpin()
	pinner.Pin(&buffer[0])
	pinner.Pin(&in[0])
	pinner.Pin(&out[0])
	s := C.server{
		socket: C.int(socket), op: C.uint32_t(op), ok: C.uint32_t(ok), module: m.handle,
		memory: (*C.uint8_t)(&memory[0]), buffer: (*C.uint8_t)(&buffer[0]), capacity: C.size_t(len(buffer)), in: &in[0], out: &out[0],
	}
	if limit := m.limits; len(limit.Input) == 3 {
		s.limited, s.channels, s.height, s.width = 1, C.uint32_t(limit.Input[0]), C.uint32_t(limit.Input[1]), C.uint32_t(limit.Input[2])
		s.least, s.most = C.uint32_t(limit.Batch[0]), C.uint32_t(limit.Batch[1])
	} else if limit.Input != nil {
		s.limited = 1 // and nothing allowed: the caller's call of ForwardImages has the error
	}
	var got C.served
	got.view.struct_size = C.sizeof_thd_tensor_view
	C.serve(&s, &got)
	if got.length < 0 {
		return Served{}, syscall.Errno(-got.length)
	}
	result := Served{Message: buffer[:got.length], CPU: time.Duration(got.cpu), Err: take("forward", got.error)}
	if got.result != nil {
		shape := got.view.shape
		result.Answer = &Answer{Height: int(shape[2]), Width: int(shape[3]), Channels: int(shape[1]), count: int(shape[0]), result: got.result}
	}
	return result, nil
}
