package imagecodec

import (
	"context"
	_ "embed"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"
	"golang.org/x/sys/unix"

	"github.com/torchherd/torchherd/torch"
)

// libwebp's decoder as WebAssembly, made by scripts/webp.sh. Go's own decoder of a WebP can't be stopped: a frame of one
// colour takes no bytes, so the decoder never reads. libwebp's calls host.continue every 16 rows.
//
//go:embed webp/decoder.wasm
var webpModule []byte

// A webp is the frame of a WebP file: a VP8 or VP8L bitstream without its container. The alpha of a VP8 frame is a
// bitstream beside it, which isn't decoded. Of an animation it is the first frame.
type webp struct {
	frame                     []byte
	lossless                  bool
	width, height             int
	left, top                 int // of the frame in the image
	canvasWidth, canvasHeight int // of the image
}

var errWebP = errors.New("webp: invalid format")

// parseWebP finds the first frame in a WebP file.
func parseWebP(data []byte) (*webp, error) {
	const container, chunkHeader, canvas, animated = 12, 8, 10, 16 // bytes
	end := min(len(data), int(binary.LittleEndian.Uint32(data[4:]))+8)
	var width, height int // of the canvas, if the file states it
	var inCanvas [4]int   // of an animation's frame: left, top, width, height
	for at := container; ; {
		if end-at < chunkHeader {
			return nil, io.ErrUnexpectedEOF
		}
		kind, size := string(data[at:at+4]), int(binary.LittleEndian.Uint32(data[at+4:]))
		at += chunkHeader
		if kind == "ANMF" && width != 0 && min(size, end-at) >= animated { // its frame is in chunks inside of it
			f := data[at:]
			inCanvas = [4]int{2 * little24(f), 2 * little24(f[3:]), 1 + little24(f[6:]), 1 + little24(f[9:])}
			end = at + min(size, end-at)
			at += animated
			continue
		}
		if size > end-at {
			return nil, io.ErrUnexpectedEOF
		}
		chunk := data[at : at+size]
		switch kind {
		case "VP8X":
			if size != canvas || width != 0 {
				return nil, errWebP
			}
			width, height = 1+little24(chunk[4:]), 1+little24(chunk[7:])
		case "VP8 ", "VP8L":
			w := &webp{frame: chunk, lossless: kind == "VP8L"}
			if err := w.readSize(); err != nil {
				return nil, err
			}
			return w, w.place(width, height, inCanvas)
		}
		at += size + size%2
	}
}

// place puts the frame into the canvas, if the file has one. A frame of no animation must fill it.
func (w *webp) place(width, height int, inCanvas [4]int) error {
	if w.canvasWidth, w.canvasHeight = w.width, w.height; width == 0 {
		return nil
	}
	w.canvasWidth, w.canvasHeight = width, height
	whole := [4]int{0, 0, width, height}
	if inCanvas[2] != 0 {
		whole, w.left, w.top = inCanvas, inCanvas[0], inCanvas[1]
	}
	if whole[2] != w.width || whole[3] != w.height || w.left+w.width > width || w.top+w.height > height {
		return errWebP
	}
	return nil
}

func little24(b []byte) int { return int(b[0]) | int(b[1])<<8 | int(b[2])<<16 }

// readSize reads the size of the frame from its header.
func (w *webp) readSize() error {
	const mask = 1<<14 - 1 // of a side; VP8 has two bits for upscaling after them, which decoders ignore
	f := w.frame
	switch {
	case w.lossless && len(f) >= 5 && f[0] == 0x2f:
		sides := binary.LittleEndian.Uint32(f[1:])
		w.width, w.height = int(sides&mask)+1, int(sides>>14&mask)+1
	case !w.lossless && len(f) >= 10 && f[0]&1 == 0 && string(f[3:6]) == "\x9d\x01\x2a":
		w.width, w.height = int(binary.LittleEndian.Uint16(f[6:])&mask), int(binary.LittleEndian.Uint16(f[8:])&mask)
	default:
		return errWebP
	}
	return nil
}

// memory returns the size of the WebAssembly memory that decoding needs at most.
func (w *webp) memory() int64 {
	const (
		fixed = 1 << 20 // code's data, stack, tables, and the allocator's own
		group = 16 << 10
		// libwebp's encoder never makes more groups of Huffman tables.
		maxGroups = 2600
	)
	width, pixels := int64(w.width)+16, int64(w.width)*int64(w.height)
	need := fixed + int64(len(w.frame)) + 3*pixels
	if !w.lossless {
		return need + 400*width // rows of macroblocks: samples, filters and predictors
	}
	// The pixels, three transforms with an entry for each 4x4 pixels, and the tables.
	tiles := ((width + 3) / 4) * ((int64(w.height) + 3) / 4)
	return need + 4*pixels + 4*20*width + 4*4*tiles + group*min(tiles, maxGroups, int64(len(w.frame))/8+1)
}

func webpHeader(data []byte) (header, error) {
	w, err := parseWebP(data)
	if err != nil {
		return header{}, err
	}
	h := header{kind: "a WebP", width: w.canvasWidth, height: w.canvasHeight, orientation: torch.Upright, memory: w.memory(), webp: w}
	of, ofByte := perVP8Pixel, perVP8Byte
	if w.lossless {
		h.kind, of, ofByte = "a lossless WebP", perVP8LPixel, perVP8LByte
	}
	h.work = picoseconds(len(data))*ofByte + picoseconds(w.width*w.height)*(of+perPixel)
	if w.canvasWidth != w.width || w.canvasHeight != w.height {
		h.work += rowsWork(w.canvasWidth, w.canvasHeight)
	}
	return h, nil
}

// The numbers of libwebp's VP8StatusCode.
const (
	webpOutOfMemory = 1
	webpTruncated   = 7
)

// webpRuntime returns the compiled decoder. It is compiled once per process, for the first WebP.
var webpRuntime = sync.OnceValues(func() (*webpDecoder, error) {
	ctx := context.Background()
	runtime := wazero.NewRuntimeWithConfig(ctx, wazero.NewRuntimeConfig())
	_, err := runtime.NewHostModuleBuilder("host").NewFunctionBuilder().
		WithGoFunction(api.GoFunc(proceed), []api.ValueType{api.ValueTypeI32}, []api.ValueType{api.ValueTypeI32}).Export("continue").Instantiate(ctx)
	if err != nil {
		return nil, fmt.Errorf("webp: %w", err)
	}
	compiled, err := runtime.CompileModule(ctx, webpModule)
	if err != nil {
		return nil, fmt.Errorf("webp: %w", err)
	}
	return &webpDecoder{runtime, compiled}, nil
})

// A webpMeter counts what the decoder can tell only while it decodes. It is in the context of the call.
type webpMeter struct {
	left     picoseconds
	exceeded bool
}

type webpMeterKey struct{}

// proceed is host.continue: it takes the coefficients decoded since its last call, and returns whether to go on.
func proceed(ctx context.Context, stack []uint64) {
	meter := ctx.Value(webpMeterKey{}).(*webpMeter)
	meter.left -= picoseconds(uint32(stack[0])) * perCoefficient
	meter.exceeded = meter.left < 0
	stack[0] = 1
	if meter.exceeded || ctx.Err() != nil {
		stack[0] = 0
	}
}

// A webpDecoder makes instances of the module, each with a memory of its own.
type webpDecoder struct {
	runtime wazero.Runtime
	module  wazero.CompiledModule
}

func decodeWebP(in *Input, s *sink) error {
	decoder, err := webpRuntime()
	if err != nil {
		return err
	}
	w := in.header.webp
	memory, err := newLinearMemory(int(w.memory()))
	if err != nil {
		return fmt.Errorf("webp: %w", err)
	}
	defer memory.release()
	allocator := experimental.MemoryAllocatorFunc(func(_, _ uint64) experimental.LinearMemory { return memory })
	meter := &webpMeter{left: in.limit - in.work}
	ctx := context.WithValue(experimental.WithMemoryAllocator(s.ctx, allocator), webpMeterKey{}, meter)
	config := wazero.NewModuleConfig().WithName("").WithStartFunctions("_initialize")
	instance, err := decoder.runtime.InstantiateModule(ctx, decoder.module, config)
	if err != nil {
		return fmt.Errorf("webp: %w", err)
	}
	defer func() { _ = instance.Close(context.WithoutCancel(ctx)) }()
	pixels, err := w.decode(ctx, instance)
	if meter.exceeded || errors.Is(err, errOutOfMemory) {
		return tooMuchWork(&in.header, len(in.data))
	}
	if err != nil {
		return err
	}
	return w.push(s, pixels)
}

// push resizes the canvas: the frame's pixels, and black around them, as Pillow has it.
func (w *webp) push(s *sink, pixels []byte) error {
	if w.canvasWidth == w.width && w.canvasHeight == w.height {
		return s.push(pixels, 3)
	}
	for y := 0; y < w.canvasHeight; y += s.rows {
		n := min(s.rows, w.canvasHeight-y)
		band := s.reusable(n)
		clear(band)
		for k := range n {
			if inFrame := y + k - w.top; inFrame >= 0 && inFrame < w.height {
				copy(band[3*(k*w.canvasWidth+w.left):], pixels[3*inFrame*w.width:][:3*w.width])
			}
		}
		if err := s.push(band, 3); err != nil {
			return err
		}
	}
	return nil
}

var errOutOfMemory = errors.New("webp: out of memory")

// decode returns the frame's pixels, in the instance's memory.
func (w *webp) decode(ctx context.Context, instance api.Module) ([]byte, error) {
	length := 3 * w.width * w.height
	frame, err := allocateIn(ctx, instance, len(w.frame))
	if err != nil {
		return nil, err
	}
	out, err := allocateIn(ctx, instance, length)
	if err != nil {
		return nil, err
	}
	instance.Memory().Write(frame, w.frame)
	status, err := instance.ExportedFunction("decode").Call(ctx, uint64(frame), uint64(len(w.frame)), uint64(out), uint64(w.width), uint64(w.height))
	if err != nil { // a trap, whose text is of no use to a client
		return nil, errWebP
	}
	switch status[0] {
	case 0:
		pixels, _ := instance.Memory().Read(out, uint32(length))
		return pixels, nil
	case webpOutOfMemory:
		return nil, errOutOfMemory
	case webpTruncated:
		return nil, io.ErrUnexpectedEOF
	}
	return nil, errWebP
}

func allocateIn(ctx context.Context, instance api.Module, size int) (uint32, error) {
	result, err := instance.ExportedFunction("allocate").Call(ctx, uint64(size))
	if err != nil {
		return 0, fmt.Errorf("webp: %w", err)
	}
	if result[0] == 0 {
		return 0, errOutOfMemory
	}
	return uint32(result[0]), nil
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

// Free does nothing: decodeWebP releases the memory.
func (m *linearMemory) Free() {}

func (m *linearMemory) release() { _ = unix.Munmap(m.mapped) }
