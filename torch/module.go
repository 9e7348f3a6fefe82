package torch

/*
#cgo noescape thd_module_forward
#cgo nocallback thd_module_forward
#cgo noescape thd_module_forward_images
#cgo nocallback thd_module_forward_images
#cgo noescape thd_module_forward_parts
#cgo nocallback thd_module_forward_parts
#cgo noescape thd_module_check_finite
#cgo nocallback thd_module_check_finite
#cgo noescape thd_result_read_images
#cgo nocallback thd_result_read_images
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
// are safe for concurrent use; calls run one after another.
//
// The caller must Close a Module. Its memory is large and outside Go's heap, so the garbage collector can't decide when
// to free it, and only Close frees it.
type Module struct {
	info     Info
	limits   limits // of a package's input
	channels int64  // of the model's input
	// partImages and partNumbers are how many further images and numbers the model takes for each item.
	partImages, partNumbers int

	mu     sync.Mutex // guards what follows; held during each call
	handle *C.thd_module
	in     pointers // reused, so that a batch allocates little
	dir    string   // removed by Close; empty: none
}

// Info describes a module.
type Info struct {
	// Inputs are the parameters of forward as the module declares them, such as "x: Tensor". TorchScript declares no
	// shapes.
	Inputs     []string
	Device     Device
	Precision  Precision
	Parameters int64 // the number of elements in all parameters and buffers
	Bytes      int64 // their size in memory
}

// Options are the options for loading a model. The zero value loads it onto the CPU in float32.
type Options struct {
	Device Device
	// Precision applies to TorchScript. A package computes in the precision that it was compiled for.
	Precision Precision
	// CUDAGraphs replays each batch shape as a CUDA graph after it has run twice, for ForwardImages only. A model that
	// can't be recorded runs without a graph.
	CUDAGraphs bool
	// Values are the meaning of the values in the model's tensors, for ForwardImages and CheckFinite.
	Values Values
	// Inputs are the parameters of forward, in their order, exactly one of them an InputBatch. Empty: the images alone.
	Inputs []Input
	// PackageFolder is the directory in which a package is unpacked, into a subdirectory that is removed before Load
	// returns (CPU) or by Close (CUDA). It must allow the execution of files. The default is os.TempDir().
	PackageFolder string
}

func load(options Options, call func(*C.thd_load_options, **C.thd_module) *C.thd_error) (*Module, error) {
	if err := checkAPI(); err != nil {
		return nil, err
	}
	c := C.thd_load_options{
		struct_size: C.sizeof_thd_load_options,
		device:      C.CString(options.Device.String()),
		precision:   C.thd_precision(options.Precision),
	}
	defer C.free(unsafe.Pointer(c.device))
	if path := options.Values.Path; path != "" {
		c.output = C.CString(path)
		defer C.free(unsafe.Pointer(c.output))
	}
	if options.CUDAGraphs {
		c.graphs = 1
	}
	values := valuesForC(options.Values)
	var pinner runtime.Pinner
	defer pinner.Unpin()
	pinner.Pin(&values)
	c.values = &values
	if err := inputsForC(options.Inputs, &pinner, &c); err != nil {
		return nil, err
	}
	m := &Module{channels: options.Values.Channels.Count()}
	m.partImages, m.partNumbers = counts(options.Inputs)
	if err := take("load", call(&c, &m.handle)); err != nil {
		return nil, err
	}
	info := C.thd_module_info{struct_size: C.sizeof_thd_module_info}
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

// Info returns the module's description, also after Close.
func (m *Module) Info() Info { return m.info }

// Close waits for a call in progress and frees the module's memory. A second Close does nothing; other calls on a
// closed module return ErrClosed. Close fails only if a package's directory can't be removed.
func (m *Module) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	C.thd_module_free(m.handle)
	m.handle = nil
	dir := m.dir
	m.dir = ""
	if dir == "" {
		return nil
	}
	return os.RemoveAll(dir)
}

// Forward runs the module on a batch: a tensor whose first dimension is the number of items. The output is a tensor of
// any shape.
//
// Errors: ErrShape for an empty batch or data that doesn't match its shape; ErrDType; ErrForward if the module fails,
// for example because it doesn't support the shape or dtype; ErrOutput if its output isn't one tensor and Values.Path chooses none; ErrOutOfMemory;
// ErrClosed.
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
	input := C.thd_tensor_view{
		struct_size: C.sizeof_thd_tensor_view,
		dtype:       C.thd_dtype(batch.DType),
		dims:        C.int32_t(len(batch.Shape)),
	}
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
	view := C.thd_tensor_view{struct_size: C.sizeof_thd_tensor_view}
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

// Images is a batch of images of one size, with pixels in HWC order.
type Images struct {
	Height, Width, Channels int
	Items                   [][]byte // each Height*Width*Channels bytes
	// Parts are the further inputs of a batch; nil: none, as for an output.
	Parts *Parts
}

func (p *Images) size() int { return p.Height * p.Width * p.Channels }

// ForwardImages runs the module on RGB images. It stacks them in their order and converts them to float32 NCHW by the
// module's Values. On CUDA it returns when the work is queued, so the caller can submit the next batch while this one
// runs. The caller must Read the output, which frees its memory.
//
// Errors: as Forward; ErrOutput also if the output isn't [items, channels, height, width] with a number of channels that the
// kind of output allows.
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
	view := C.thd_tensor_view{struct_size: C.sizeof_thd_tensor_view}
	output := &Answer{}
	items := m.in.pin(batch.Items)
	var err error
	if batch.Parts == nil {
		err = take(op, C.thd_module_forward_images(m.handle, items, C.int32_t(len(batch.Items)),
			C.int32_t(batch.Height), C.int32_t(batch.Width), &output.result, &view))
	} else {
		var pinner runtime.Pinner
		err = take(op, C.thd_module_forward_parts(m.handle, items, C.int32_t(len(batch.Items)),
			C.int32_t(batch.Height), C.int32_t(batch.Width), partsForC(batch.Parts, &pinner), &output.result, &view))
		pinner.Unpin()
	}
	m.in.unpin()
	if err != nil {
		return nil, err
	}
	output.count = int(view.shape[0])
	output.Channels, output.Height, output.Width = int(view.shape[1]), int(view.shape[2]), int(view.shape[3])
	return output, nil
}

// CheckFinite runs the module on a batch of one image and checks that every value of its output is finite.
// (ForwardImages converts NaN and infinite values to 0 or 1.) Errors: as ForwardImages; ErrOutput also if a value is
// NaN or infinite.
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
	image := (*C.uint8_t)(&batch.Items[0][0])
	if batch.Parts != nil {
		var pinner runtime.Pinner
		defer pinner.Unpin()
		return take(op, C.thd_module_check_parts_finite(m.handle, image, C.int32_t(batch.Height), C.int32_t(batch.Width), partsForC(batch.Parts, &pinner)))
	}
	return take(op, C.thd_module_check_finite(m.handle, image, C.int32_t(batch.Height), C.int32_t(batch.Width)))
}

// checkInput returns an error if this module can't run on a batch.
func (m *Module) checkInput(op string, batch Images) error {
	if len(batch.Items) == 0 || batch.Height < 1 || batch.Width < 1 {
		return &Error{Op: op, Kind: ErrShape, Detail: "the batch is empty"}
	}
	if batch.Channels != 3 {
		return &Error{Op: op, Kind: ErrShape, Detail: fmt.Sprintf("the images have %d channels instead of 3", batch.Channels)}
	}
	for i, item := range batch.Items {
		if len(item) != batch.size() {
			return &Error{Op: op, Kind: ErrShape, Detail: fmt.Sprintf("image %d has %d bytes instead of %d", i, len(item), batch.size())}
		}
	}
	if batch.Parts != nil || m.partImages+m.partNumbers > 0 {
		if err := m.checkParts(op, batch.Parts, len(batch.Items)); err != nil {
			return err
		}
	}
	shape := [...]int64{int64(len(batch.Items)), m.channels, int64(batch.Height), int64(batch.Width)}
	return m.limits.check(op, Float32, shape[:])
}

// An Answer is the output of ForwardImages. Its memory is outside Go's heap until it is read.
type Answer struct {
	Height, Width, Channels int // of each image; they may differ from the batch's, and Channels is the bytes of a pixel by OutputKind
	count                   int
	result                  *C.thd_result
}

// Read waits for the output, returns it as bytes, and frees its memory. The module's Values bring an image, a mask or depths
// to 0..1; they are clamped (NaN becomes 0), multiplied by 255 and rounded. Item i belongs to item i of the batch.
//
// Read may run on another goroutine while the module runs another batch, and after the module is closed. A second Read
// returns ErrClosed.
//
// alloc returns the memory of one image, of length size, which Read overwrites completely. A server can thus reuse
// memory. A nil alloc allocates with make. Errors: ErrForward if the work fails on the CUDA device.
func (a *Answer) Read(alloc func(size int) []byte) (Images, error) {
	const op = "read output"
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
	return output, take(op, C.thd_result_read_images(a.result, out.pin(output.Items), C.int32_t(a.count)))
}

// pointers is an array of pointers to Go memory, which is pinned while C uses it.
type pointers struct {
	array  []*byte
	pinner runtime.Pinner
}

// pin pins the items and returns an array of their addresses.
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
