package imagecodec

import (
	"context"
	"encoding/binary"
	"errors"
	"io"

	"github.com/tetratelabs/wazero/api"

	"github.com/torchherd/torchherd/torch"
)

// A webp is the frame of a WebP file: a VP8 or VP8L bitstream without its container. The alpha of a VP8 frame is a
// bitstream beside it, which is decoded only if it is wanted. Of an animation it is the first frame.
type webp struct {
	frame                     []byte
	alpha                     []byte // of a VP8 frame; empty: none
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
	var alpha []byte
	var inCanvas [4]int // of an animation's frame: left, top, width, height
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
		case "ALPH":
			alpha = chunk
		case "VP8 ", "VP8L":
			w := &webp{frame: chunk, lossless: kind == "VP8L"}
			if !w.lossless {
				w.alpha = alpha
			}
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

// hasAlpha reports whether the frame has alpha, or leaves a part of the image without colour.
func (w *webp) hasAlpha() bool {
	const flag = 1 << 28 // after the sides, in the header of a VP8L frame
	return w.lossless && binary.LittleEndian.Uint32(w.frame[1:])&flag != 0 || len(w.alpha) > 0 ||
		w.canvasWidth != w.width || w.canvasHeight != w.height
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
	h := header{kind: "a WebP", width: w.canvasWidth, height: w.canvasHeight, orientation: torch.Upright, memory: w.memory(), alpha: w.hasAlpha(), webp: w}
	of, ofByte := perVP8Pixel, perVP8Byte
	if w.lossless {
		h.kind, of, ofByte = "a lossless WebP", perVP8LPixel, perVP8LByte
	}
	h.work = picoseconds(len(data))*ofByte + picoseconds(w.width*w.height)*(of+perPixel)
	if w.canvasWidth != w.width || w.canvasHeight != w.height {
		h.work += rowsWork(w.canvasWidth, w.canvasHeight)
	}
	h.alphaMemory, h.alphaWork = w.costsOfAlpha()
	return h, nil
}

// costsOfAlpha returns the memory and the work that alpha takes in addition. The alpha of a VP8 frame is like a lossless image.
func (w *webp) costsOfAlpha() (int64, picoseconds) {
	pixels := int64(w.width) * int64(w.height)
	if len(w.alpha) == 0 {
		return pixels, 0
	}
	plane := webp{frame: w.alpha, lossless: true, width: w.width, height: w.height}
	return plane.memory(), picoseconds(len(w.alpha))*perVP8LByte + picoseconds(pixels)*perVP8LPixel
}

// The numbers of libwebp's VP8StatusCode.
const (
	webpOutOfMemory = 1
	webpTruncated   = 7
)

// decodeWebP decodes by libwebp. Go's own decoder of a WebP can't be stopped: a frame of one colour takes no bytes, so the
// decoder never reads. libwebp's calls host.continue every 16 rows, with the coefficients that it decoded.
func decodeWebP(in *Input, s *sink) error {
	w := in.header.webp
	host := &wasmHost{sink: s, left: in.limit - in.work, per: perCoefficient}
	err := webpDecoder.run(s.ctx, host, in.header.memory, func(ctx context.Context, instance api.Module) error {
		channels := 3
		if s.wantsAlpha() {
			channels = 4
		}
		pixels, err := w.decode(ctx, instance, channels)
		if err != nil {
			return err
		}
		return w.push(s, pixels, channels)
	})
	if host.exceeded || errors.Is(err, errOutOfMemory) {
		return tooMuchWork(&in.header, len(in.data))
	}
	return err
}

// push resizes the canvas: the frame's pixels, and around them black that is transparent, as Pillow has it.
func (w *webp) push(s *sink, pixels []byte, channels int) error {
	if channels == 3 && w.canvasWidth == w.width && w.canvasHeight == w.height {
		return s.push(pixels, 3)
	}
	for y := 0; y < w.canvasHeight; y += s.rows {
		n := min(s.rows, w.canvasHeight-y)
		band, alpha := s.reusable(n), s.alphaBand(n)
		clear(band)
		clear(alpha)
		for k := range n {
			inFrame := y + k - w.top
			if inFrame < 0 || inFrame >= w.height {
				continue
			}
			row, at := pixels[channels*inFrame*w.width:][:channels*w.width], k*w.canvasWidth+w.left
			if channels == 3 {
				copy(band[3*at:], row)
				continue
			}
			fromRGBA(band[3*at:][:3*w.width], alpha[at:][:w.width], row)
		}
		if err := s.pushBand(band, alpha); err != nil {
			return err
		}
	}
	return nil
}

// bitstream returns what libwebp decodes: the frame, or the chunks of the alpha and the frame.
func (w *webp) bitstream(channels int) []byte {
	if channels == 3 || len(w.alpha) == 0 {
		return w.frame
	}
	var chunks []byte
	add := func(kind string, data []byte) {
		chunks = append(binary.LittleEndian.AppendUint32(append(chunks, kind...), uint32(len(data))), data...)
		if len(data)%2 == 1 {
			chunks = append(chunks, 0)
		}
	}
	add("ALPH", w.alpha)
	add("VP8 ", w.frame)
	return chunks
}

// decode returns the frame's pixels, of 3 or 4 channels, in the instance's memory.
func (w *webp) decode(ctx context.Context, instance api.Module, channels int) ([]byte, error) {
	length, bitstream := channels*w.width*w.height, w.bitstream(channels)
	frame, err := allocateIn(ctx, instance, len(bitstream))
	if err != nil {
		return nil, err
	}
	out, err := allocateIn(ctx, instance, length)
	if err != nil {
		return nil, err
	}
	instance.Memory().Write(frame, bitstream)
	status, err := call(ctx, instance, "decode", uint64(frame), uint64(len(bitstream)), uint64(out), uint64(w.width), uint64(w.height), uint64(channels))
	if err != nil {
		return nil, errWebP
	}
	switch status {
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
