package torch

/*
#cgo noescape thd_module_forward
#cgo nocallback thd_module_forward
#cgo noescape thd_module_forward_pictures
#cgo nocallback thd_module_forward_pictures
#cgo noescape thd_module_check_finite
#cgo nocallback thd_module_check_finite
#cgo noescape thd_result_read_pictures
#cgo nocallback thd_result_read_pictures
#include <stdlib.h>
#include "torchherd.h"
*/
import "C"

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"unsafe"
)

// A Module is a model on one device: a TorchScript module in evaluation mode, or an AOTInductor package. Its methods
// are safe for concurrent use and take turns. Close it when it is done with: a model's memory is large and lies outside
// Go's heap, so the garbage collector can't know when it is time, and nothing is freed without Close.
type Module struct {
	info     Info
	limits   limits // of what forward takes; only a package has any
	channels int64  // of a picture as the model gets it

	mu     sync.Mutex // one call at a time
	handle *C.thd_module
	in     pointers // scratch, so that a batch allocates little
	folder string   // to be removed by Close; empty: none
}

// Info is what a module says about itself.
type Info struct {
	// Inputs of forward as the module declares them, such as "x: Tensor". TorchScript states no shapes.
	Inputs     []string
	Device     Device
	Precision  Precision
	Parameters int64 // elements in all parameters and buffers
	Bytes      int64 // their size in memory
}

// Options say how a model is loaded. The zero value is the CPU in float32.
type Options struct {
	Device Device
	// Precision is for TorchScript; a package computes in the one that it was compiled for.
	Precision Precision
	// CUDAGraphs replays each shape of a batch as a CUDA graph once it has run twice. For ForwardImages only. A model
	// that no graph can hold runs without.
	CUDAGraphs bool
	// Values are what the model's tensors hold of pictures; for ForwardImages and CheckFinite.
	Values Values
	// PackageFolder is where a package is unpacked, into a folder of its own that is removed again: on the CPU before
	// Load returns, on CUDA by Close. Empty: os.TempDir(). It must allow files to be executed.
	PackageFolder string
}

func load(options Options, call func(*C.thd_load_options, **C.thd_module) *C.thd_error) (*Module, error) {
	if err := checkABI(); err != nil {
		return nil, err
	}
	c := C.thd_load_options{device: C.CString(options.Device.String()), precision: C.thd_precision(options.Precision)}
	defer C.free(unsafe.Pointer(c.device))
	if options.CUDAGraphs {
		c.graphs = 1
	}
	values := valuesForC(options.Values)
	var pinner runtime.Pinner
	defer pinner.Unpin()
	pinner.Pin(&values)
	c.values = &values
	m := &Module{channels: options.Values.Channels.count()}
	if err := take("load", call(&c, &m.handle)); err != nil {
		return nil, err
	}
	var info C.thd_module_info
	if err := take("load", C.thd_module_describe(m.handle, &info)); err != nil {
		_ = m.Close()
		return nil, err
	}
	m.info = Info{
		Inputs:     strings.Split(C.GoString(info.inputs), "\n"),
		Device:     options.Device,
		Precision:  options.Precision,
		Parameters: int64(info.parameters),
		Bytes:      int64(info.bytes),
	}
	return m, nil
}

// Info describes the module; also after Close.
func (m *Module) Info() Info { return m.info }

// Close returns the module's memory, after a call that is under way. Closing twice does nothing; other calls on
// a closed module return ErrClosed. It fails only when a package's folder can't be removed.
func (m *Module) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	C.thd_module_free(m.handle)
	m.handle = nil
	folder := m.folder
	m.folder = ""
	if folder == "" {
		return nil
	}
	return os.RemoveAll(folder)
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
	if err := m.limits.check(op, batch.DType, batch.Shape); err != nil {
		return nil, err
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

// Images is a batch of pictures of one size, pixels in HWC order.
type Images struct {
	Height, Width, Channels int
	Items                   [][]byte // each Height*Width*Channels bytes
}

func (p *Images) size() int { return p.Height * p.Width * p.Channels }

// ForwardImages runs the module on RGB pictures: it stacks them in their order, turns them into float32 NCHW with the
// module's Values, and runs. On CUDA it returns when the work is queued, so that the next batch can be given while this one runs.
// The caller reads the answer once.
//
// Errors: as for Forward; ErrOutput also when the answer isn't floating point [items, 1 or 3, height, width].
func (m *Module) ForwardImages(batch Images) (*Answer, error) {
	const op = "forward"
	if err := m.checkInput(op, batch); err != nil {
		return nil, err
	}

	m.mu.Lock()
	defer m.mu.Unlock()
	if m.handle == nil {
		return nil, &Error{Op: op, Kind: ErrClosed}
	}
	var view C.thd_tensor_view
	answer := &Answer{}
	items := m.in.pin(batch.Items)
	err := take(op, C.thd_module_forward_pictures(m.handle, items, C.int32_t(len(batch.Items)),
		C.int32_t(batch.Height), C.int32_t(batch.Width), &answer.result, &view))
	m.in.unpin()
	if err != nil {
		return nil, err
	}
	answer.count = int(view.shape[0])
	answer.Channels, answer.Height, answer.Width = int(view.shape[1]), int(view.shape[2]), int(view.shape[3])
	return answer, nil
}

// CheckFinite runs the module on the first picture of a batch and checks that each value of its answer is a number:
// not infinite, not NaN. (ForwardImages takes such values for 0 or 1.) Errors: as for ForwardImages; ErrOutput also
// when one isn't.
func (m *Module) CheckFinite(batch Images) error {
	const op = "check"
	if err := m.checkInput(op, batch); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.handle == nil {
		return &Error{Op: op, Kind: ErrClosed}
	}
	picture := (*C.uint8_t)(&batch.Items[0][0])
	return take(op, C.thd_module_check_finite(m.handle, picture, C.int32_t(batch.Height), C.int32_t(batch.Width)))
}

// checkInput returns the error of a batch that no module, or this one, can take.
func (m *Module) checkInput(op string, batch Images) error {
	if len(batch.Items) == 0 || batch.Height < 1 || batch.Width < 1 {
		return &Error{Op: op, Kind: ErrShape, Detail: "an empty batch"}
	}
	if batch.Channels != 3 {
		return &Error{Op: op, Kind: ErrShape, Detail: fmt.Sprintf("pictures of %d channels; 3 are needed", batch.Channels)}
	}
	for i, item := range batch.Items {
		if len(item) != batch.size() {
			return &Error{Op: op, Kind: ErrShape, Detail: fmt.Sprintf("picture %d has %d bytes instead of %d", i, len(item), batch.size())}
		}
	}
	shape := [...]int64{int64(len(batch.Items)), m.channels, int64(batch.Height), int64(batch.Width)}
	return m.limits.check(op, Float32, shape[:])
}

// An Answer is what ForwardImages came to, in memory outside Go's heap until it is read.
type Answer struct {
	Height, Width, Channels int // of each picture; they may differ from the batch's, with one channel or three
	count                   int
	result                  *C.thd_result
}

// Read waits for the answer, writes it as bytes, RGB or grey (brought to 0..1 by the module's Values and clamped, NaN as
// 0, times 255, cut off), and returns the memory that the answer held. Item i belongs to item i of the batch. A second Read returns ErrClosed. It may run on another
// goroutine while the module runs another batch, and after the module was closed.
//
// alloc makes the memory of each picture: size bytes, which are all overwritten. It lets a server use its memory again;
// nil is make. Errors: ErrForward for what fails on CUDA only as it runs.
func (a *Answer) Read(alloc func(size int) []byte) (Images, error) {
	const op = "read the answer"
	if a.result == nil {
		return Images{}, &Error{Op: op, Kind: ErrClosed}
	}
	defer func() {
		C.thd_result_free(a.result)
		a.result = nil
	}()
	if alloc == nil {
		alloc = func(size int) []byte { return make([]byte, size) }
	}
	output := Images{Height: a.Height, Width: a.Width, Channels: a.Channels, Items: make([][]byte, a.count)}
	for i := range output.Items {
		output.Items[i] = alloc(output.size())
	}
	var out pointers
	defer out.unpin()
	return output, take(op, C.thd_result_read_pictures(a.result, out.pin(output.Items), C.int32_t(a.count)))
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
