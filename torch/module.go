package torch

/*
#cgo noescape thd_module_forward
#cgo nocallback thd_module_forward
#cgo noescape thd_module_forward_pictures
#cgo nocallback thd_module_forward_pictures
#cgo noescape thd_result_read_pictures
#cgo nocallback thd_result_read_pictures
#include <stdlib.h>
#include "torchherd.h"
*/
import "C"

import (
	"fmt"
	"runtime"
	"strings"
	"sync"
	"unsafe"
)

// A Module is a TorchScript module on one device, in evaluation mode. Its methods are safe for concurrent use
// and take turns. Close it when it is done with: a model's memory is large and lies outside Go's heap, so the
// garbage collector can't know when it is time, and nothing is freed without Close.
type Module struct {
	info Info

	mu     sync.Mutex // one call at a time
	handle *C.thd_module
	// Scratch for pointers to a batch's pictures, so that a batch allocates nothing.
	in, out pointers
}

// Info is what a module says about itself.
type Info struct {
	// Inputs of forward as the module declares them, such as "x: Tensor". TorchScript states no shapes.
	Inputs     []string
	Device     Device
	Parameters int64 // elements in all parameters and buffers
	Bytes      int64 // their size in memory
}

// Load reads a TorchScript file (torch.jit.save, .pt) onto a device.
//
// Errors: ErrNotFound, ErrNotAModule, ErrDevice, ErrOutOfMemory.
func Load(path string, device Device) (*Module, error) {
	name := C.CString(path)
	defer C.free(unsafe.Pointer(name))
	return load(device, func(device *C.char, out **C.thd_module) *C.thd_error {
		return C.thd_module_load(name, device, out)
	})
}

// LoadBytes is Load for a file's content in memory, which isn't used any more when it returns.
func LoadBytes(content []byte, device Device) (*Module, error) {
	if len(content) == 0 {
		return nil, &Error{Op: "load", Kind: ErrNotAModule, Detail: "the file is empty"}
	}
	return load(device, func(device *C.char, out **C.thd_module) *C.thd_error {
		return C.thd_module_load_memory(unsafe.Pointer(&content[0]), C.size_t(len(content)), device, out)
	})
}

func load(device Device, call func(*C.char, **C.thd_module) *C.thd_error) (*Module, error) {
	if err := checkABI(); err != nil {
		return nil, err
	}
	deviceName := C.CString(device.String())
	defer C.free(unsafe.Pointer(deviceName))
	m := &Module{}
	if err := take("load", call(deviceName, &m.handle)); err != nil {
		return nil, err
	}
	var info C.thd_module_info
	if err := take("load", C.thd_module_describe(m.handle, &info)); err != nil {
		_ = m.Close()
		return nil, err
	}
	m.info = Info{
		Inputs:     strings.Split(C.GoString(info.inputs), "\n"),
		Device:     device,
		Parameters: int64(info.parameters),
		Bytes:      int64(info.bytes),
	}
	return m, nil
}

// Info describes the module; also after Close.
func (m *Module) Info() Info { return m.info }

// Close returns the module's memory, after a call that is under way. Closing twice does nothing; other calls on
// a closed module return ErrClosed. Close never fails; it returns an error to be an io.Closer.
func (m *Module) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	C.thd_module_free(m.handle)
	m.handle = nil
	return nil
}

// Forward runs the module on a batch: a tensor whose first dimension counts the items. The answer is a tensor of
// any shape, as the module makes it.
//
// Errors: ErrShape for an empty batch or data that doesn't fit its shape, ErrDType, ErrForward when the module
// raises an error (as for a shape or dtype that it doesn't take), ErrOutput when its answer isn't one tensor,
// ErrOutOfMemory, ErrClosed.
func (m *Module) Forward(batch *Tensor) (*Tensor, error) {
	const op = "forward"
	if err := batch.check(op); err != nil {
		return nil, err
	}
	if len(batch.Shape) == 0 || len(batch.Data) == 0 {
		return nil, &Error{Op: op, Kind: ErrShape, Detail: fmt.Sprintf("shape %v is an empty batch", batch.Shape)}
	}
	input := C.thd_tensor_view{dtype: C.thd_dtype(batch.DType), dims: C.int32_t(len(batch.Shape))}
	for i, n := range batch.Shape {
		input.shape[i] = C.int64_t(n)
	}
	var pinner runtime.Pinner
	defer pinner.Unpin()
	pinner.Pin(&batch.Data[0])
	input.data = unsafe.Pointer(&batch.Data[0])

	m.mu.Lock()
	defer m.mu.Unlock()
	if m.handle == nil {
		return nil, &Error{Op: op, Kind: ErrClosed}
	}
	var result *C.thd_result
	var view C.thd_tensor_view
	if err := take(op, C.thd_module_forward(m.handle, &input, &result, &view)); err != nil {
		return nil, err
	}
	defer C.thd_result_free(result)
	output := &Tensor{DType: DType(view.dtype), Shape: make([]int64, view.dims)}
	size := output.DType.Size()
	for i := range output.Shape {
		output.Shape[i] = int64(view.shape[i])
		size *= int(view.shape[i])
	}
	output.Data = make([]byte, size)
	if size > 0 {
		copy(output.Data, unsafe.Slice((*byte)(view.data), size))
	}
	return output, nil
}

// Pictures is a batch of pictures of one size, pixels in HWC order.
type Pictures struct {
	Height, Width, Channels int
	Items                   [][]byte // each Height*Width*Channels bytes
}

func (p *Pictures) size() int { return p.Height * p.Width * p.Channels }

// ForwardPictures runs the module on RGB pictures: it stacks them in their order, turns them into float32 NCHW
// in 0..1, runs, and turns the answer back into bytes (clamped to 0..1, NaN as 0, times 255, cut off). Item i
// of the answer belongs to item i of the batch. The answer's pictures may be of another size, and have one or
// three channels.
//
// alloc makes the memory of each picture of the answer: size bytes, which are all overwritten. It lets a server
// use its memory again; nil is make.
//
// Errors: as for Forward; ErrOutput also when the answer isn't floating point [items, 1 or 3, height, width].
func (m *Module) ForwardPictures(batch Pictures, alloc func(size int) []byte) (Pictures, error) {
	const op = "forward"
	if len(batch.Items) == 0 || batch.Height < 1 || batch.Width < 1 {
		return Pictures{}, &Error{Op: op, Kind: ErrShape, Detail: "an empty batch"}
	}
	if batch.Channels != 3 {
		return Pictures{}, &Error{Op: op, Kind: ErrShape, Detail: fmt.Sprintf("pictures of %d channels; 3 are needed", batch.Channels)}
	}
	for i, item := range batch.Items {
		if len(item) != batch.size() {
			return Pictures{}, &Error{Op: op, Kind: ErrShape, Detail: fmt.Sprintf("picture %d has %d bytes instead of %d", i, len(item), batch.size())}
		}
	}
	if alloc == nil {
		alloc = func(size int) []byte { return make([]byte, size) }
	}

	m.mu.Lock()
	defer m.mu.Unlock()
	if m.handle == nil {
		return Pictures{}, &Error{Op: op, Kind: ErrClosed}
	}
	var result *C.thd_result
	var view C.thd_tensor_view
	items := m.in.pin(batch.Items)
	err := take(op, C.thd_module_forward_pictures(m.handle, items, C.int32_t(len(batch.Items)),
		C.int32_t(batch.Height), C.int32_t(batch.Width), &result, &view))
	m.in.unpin()
	if err != nil {
		return Pictures{}, err
	}
	defer C.thd_result_free(result)

	output := Pictures{
		Channels: int(view.shape[1]), Height: int(view.shape[2]), Width: int(view.shape[3]),
		Items: make([][]byte, len(batch.Items)),
	}
	for i := range output.Items {
		output.Items[i] = alloc(output.size())
	}
	defer m.out.unpin()
	return output, take(op, C.thd_result_read_pictures(result, m.out.pin(output.Items), C.int32_t(len(output.Items))))
}

// pointers is an array of pointers to Go memory, pinned while C reads them.
type pointers struct {
	array  []*byte
	pinner runtime.Pinner
}

// pin returns the address of an array with the address of each item's first byte.
func (p *pointers) pin(items [][]byte) **C.uint8_t {
	p.array = p.array[:0]
	for _, item := range items {
		p.pinner.Pin(&item[0])
		p.array = append(p.array, &item[0])
	}
	return (**C.uint8_t)(unsafe.Pointer(&p.array[0]))
}

func (p *pointers) unpin() {
	p.pinner.Unpin()
	clear(p.array)
}
