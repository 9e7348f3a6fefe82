package imagecodec

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"sync"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"
	"golang.org/x/sys/unix"
)

// Codecs in C run as WebAssembly modules. A module has the memory that its caller reserved, and neither files nor a network; a
// fault in it ends one decode or encode. It calls its host often, so that it ends with its context. scripts/codecs.sh
// makes the modules; docs/decisions/0018-decoders.md has the reasons.
//
//go:embed codecs/webp.wasm
var webpModule []byte

//go:embed codecs/tiff.wasm
var tiffModule []byte

//go:embed codecs/avif.wasm
var avifModule []byte

//go:embed codecs/jpeg2000.wasm
var jpeg2000Module []byte

//go:embed codecs/avifenc.wasm
var avifEncoderModule []byte

var (
	avifDecoder     = newWasmModule("avif", avifModule)
	webpDecoder     = newWasmModule("webp", webpModule)
	tiffDecoder     = newWasmModule("tiff", tiffModule)
	jpeg2000Decoder = newWasmModule("jpeg 2000", jpeg2000Module)
	avifEncoder     = newWasmModule("avifenc", avifEncoderModule)
)

var (
	errOutOfMemory = errors.New("out of memory")
	errTrap        = errors.New("invalid data")
	errEnded       = errors.New("ended")
)

// A wasmModule makes instances, each with a memory of its own.
type wasmModule struct {
	name string
	// compiled returns the compiled module. It is compiled once per process, for the first image that needs it.
	compiled func() (wazero.Runtime, wazero.CompiledModule, error)
}

type compiledWasm struct {
	runtime wazero.Runtime
	module  wazero.CompiledModule
}

func newWasmModule(name string, module []byte) *wasmModule {
	once := sync.OnceValues(func() (compiledWasm, error) {
		ctx := context.Background()
		runtime := wazero.NewRuntimeWithConfig(ctx, wazero.NewRuntimeConfig())
		i32 := api.ValueTypeI32
		_, err := runtime.NewHostModuleBuilder("host").
			NewFunctionBuilder().WithGoFunction(api.GoFunc(proceed), []api.ValueType{i32}, []api.ValueType{i32}).Export("continue").
			NewFunctionBuilder().WithGoModuleFunction(api.GoModuleFunc(takeRows), []api.ValueType{i32, i32, i32}, []api.ValueType{i32}).Export("rows").
			Instantiate(ctx)
		if err != nil {
			return compiledWasm{}, fmt.Errorf("%s: %w", name, err)
		}
		compiled, err := runtime.CompileModule(ctx, module)
		if err != nil {
			return compiledWasm{}, fmt.Errorf("%s: %w", name, err)
		}
		return compiledWasm{runtime, compiled}, nil
	})
	return &wasmModule{name: name, compiled: func() (wazero.Runtime, wazero.CompiledModule, error) {
		c, err := once()
		return c.runtime, c.module, err
	}}
}

// A wasmHost is what a module asks of its host during one decode or encode. It is in the context of the calls.
type wasmHost struct {
	sink     *sink // of a decode
	samples  int   // of 16 bits that the module gives for each pixel; 0: it gives RGB
	left     picoseconds
	per      picoseconds // of a unit of work
	exceeded bool
	pushed   int // rows
	err      error
}

type wasmHostKey struct{}

// proceed is host.continue: it takes the work done since its last call, and returns whether to go on.
func proceed(ctx context.Context, stack []uint64) {
	host := ctx.Value(wasmHostKey{}).(*wasmHost)
	host.left -= picoseconds(uint32(stack[0])) * host.per
	host.exceeded = host.left < 0
	stack[0] = 0
	if !host.exceeded && ctx.Err() == nil {
		stack[0] = 1
	}
}

// takeRows is host.rows: it resizes rows, and returns whether to go on.
func takeRows(ctx context.Context, module api.Module, stack []uint64) {
	host := ctx.Value(wasmHostKey{}).(*wasmHost)
	at, rows, alphaAt := uint32(stack[0]), int(uint32(stack[1])), uint32(stack[2])
	stack[0] = 0
	size := 3
	if host.samples > 0 {
		size = 2 * host.samples
	}
	pixels, ok := module.Memory().Read(at, uint32(size*host.sink.width*rows))
	if !ok || host.pushed+rows > host.sink.height {
		host.err = errTrap
		return
	}
	var alpha []byte
	if n := host.sink.width * rows; n <= len(host.sink.plane) {
		alpha, host.sink.plane = host.sink.plane[:n], host.sink.plane[n:]
	}
	if alphaAt != 0 {
		if alpha, ok = module.Memory().Read(alphaAt, uint32(host.sink.width*rows)); !ok {
			host.err = errTrap
			return
		}
	}
	host.pushed += rows
	if host.samples > 0 {
		host.err = host.sink.pushSamples(pixels, host.samples, alpha)
	} else {
		host.err = host.sink.pushBand(pixels, alpha)
	}
	if host.err == nil {
		stack[0] = 1
	}
}

// run gives a new instance with a memory of at most so many bytes to do.
func (w *wasmModule) run(ctx context.Context, host *wasmHost, memory int64, do func(ctx context.Context, instance api.Module) error) error {
	runtime, module, err := w.compiled()
	if err != nil {
		return err
	}
	if memory > math.MaxInt32 {
		return errOutOfMemory
	}
	mapped, err := newLinearMemory(int(memory))
	if err != nil {
		return &systemError{fmt.Errorf("%s: %w", w.name, err)}
	}
	defer mapped.release()
	allocator := experimental.MemoryAllocatorFunc(func(_, _ uint64) experimental.LinearMemory { return mapped })
	ctx = context.WithValue(experimental.WithMemoryAllocator(ctx, allocator), wasmHostKey{}, host)
	config := wazero.NewModuleConfig().WithName("").WithStartFunctions("_initialize")
	instance, err := runtime.InstantiateModule(ctx, module, config)
	if err != nil {
		return &systemError{fmt.Errorf("%s: %w", w.name, err)}
	}
	defer func() { _ = instance.Close(context.WithoutCancel(ctx)) }()
	err = do(ctx, instance)
	if host.err != nil {
		return host.err
	}
	return err
}

// call calls an exported function. A trap is errTrap: its text is of no use to a client.
func call(ctx context.Context, instance api.Module, name string, arguments ...uint64) (uint32, error) {
	result, err := instance.ExportedFunction(name).Call(ctx, arguments...)
	if err != nil {
		return 0, errTrap
	}
	return uint32(result[0]), nil
}

// allocateIn returns memory of an instance.
func allocateIn(ctx context.Context, instance api.Module, size int) (uint32, error) {
	at, err := call(ctx, instance, "allocate", uint64(size))
	if err == nil && at == 0 {
		err = errOutOfMemory
	}
	return at, err
}

// What decode of scripts/codecs returns.
const (
	wasmDone = iota
	wasmBroken
	wasmOutOfMemory
	wasmEnded
)

// rowsOfModule returns how many rows of an image a module hands over together.
func rowsOfModule(width, height int) int {
	const pixels = 1 << 15
	return min(height, max(1, pixels/width))
}

// decodeRows runs a module's decode, which calls host.rows, and adds the work that it counts to the Input's. parts are the
// file, put one after the other into the instance's memory; arguments follow their address and size, and the last tells
// whether rows have 16 bits for each sample.
func (w *wasmModule) decodeRows(in *Input, s *sink, per picoseconds, parts [][]byte, arguments ...uint64) error {
	host := &wasmHost{sink: s, left: in.limit - in.work, per: per}
	deep := uint64(0)
	if s.transform != nil {
		host.samples, deep = in.header.samples(), 1
	}
	err := w.run(s.ctx, host, in.header.memory, func(ctx context.Context, instance api.Module) error {
		size := 0
		for _, part := range parts {
			size += len(part)
		}
		file, err := allocateIn(ctx, instance, size)
		if err != nil {
			return err
		}
		at := file
		for _, part := range parts {
			instance.Memory().Write(at, part)
			at += uint32(len(part))
		}
		status, err := call(ctx, instance, "decode", slices.Concat([]uint64{uint64(file), uint64(size)}, arguments, []uint64{deep})...)
		if err != nil {
			status = wasmBroken // codecs end by a trap after an error, too
		}
		switch status {
		case wasmDone:
			if host.pushed != in.header.height {
				return io.ErrUnexpectedEOF
			}
			return nil
		case wasmOutOfMemory:
			return errOutOfMemory
		case wasmEnded:
			return errEnded
		}
		return w.failure(ctx, instance)
	})
	in.work = in.limit - host.left
	if host.exceeded || errors.Is(err, errOutOfMemory) {
		return tooMuchWork(&in.header, len(in.data))
	}
	return err
}

// failure returns the module's text of its error.
func (w *wasmModule) failure(ctx context.Context, instance api.Module) error {
	const longest = 200
	at, err := call(ctx, instance, "error")
	if err != nil {
		return err
	}
	text, _ := instance.Memory().Read(at, longest)
	for i, c := range text {
		if c == 0 {
			text = text[:i]
			break
		}
		if c < ' ' || c > '~' {
			text[i] = '?'
		}
	}
	if len(text) == 0 {
		return fmt.Errorf("%s: %w", w.name, errTrap)
	}
	return fmt.Errorf("%s: %s", w.name, text)
}

// linearMemory is the memory of a WebAssembly instance. It comes from the system and goes back at once.
type linearMemory struct{ mapped []byte }

func newLinearMemory(size int) (*linearMemory, error) {
	mapped, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	return &linearMemory{mapped}, err
}

// Reallocate returns the first size bytes of the memory, or nil if it is smaller.
func (m *linearMemory) Reallocate(size uint64) []byte {
	if size > uint64(len(m.mapped)) {
		return nil
	}
	return m.mapped[:size]
}

// Free does nothing: run releases the memory.
func (m *linearMemory) Free() {}

func (m *linearMemory) release() { _ = unix.Munmap(m.mapped) }
