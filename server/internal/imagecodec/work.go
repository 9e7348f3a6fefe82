package imagecodec

import (
	"fmt"

	"github.com/torchherd/torchherd/torch"
)

// Files that are small and take long, or much memory, are easy to make: formats repeat, refer back, and state what they
// leave out. So Prepare computes from the header what the worst file with it costs, and refuses what is above the budget:
// one second of one core for each 4 MiB of the file, and at least one second.
//
// The costs are counts of bytes, pixels, blocks and segments, multiplied by the constants below. No clock is read, so that
// a file is accepted always or never.

// picoseconds are work: an upper bound of the time of one core of the machine of docs/benchmarks.md.
type picoseconds int64

const (
	nanosecond  picoseconds = 1000
	millisecond             = 1e6 * nanosecond
	second                  = 1000 * millisecond

	// A step that nothing interrupts may take this long, so that a decoder stops within 50 ms of its context's end also
	// on a slower machine.
	uninterrupted = 25 * millisecond

	// The size up to which all files have the same budget.
	smallFile = 4 << 20
)

// The costs of what decoders do, each for its worst input, in picoseconds. TestCostsAreUpperBounds measures them; docs/
// decisions/0015-bounded-decodes.md has its figures.
const (
	perWeight      = 30 * nanosecond  // a weight of a resize, Lanczos
	perProduct     = 700              // a weight times a pixel, in both passes
	perRow         = 200 * nanosecond // a row of an image that takes the way of all formats but JPEG
	perPixel       = 4 * nanosecond   // a pixel that is converted to RGB there
	perJPEGByte    = 40 * nanosecond  // a byte of an entropy-coded segment, or of a marker segment
	perJPEGPixel   = 12 * nanosecond  // a pixel of the output: inverse transform, upsampling and colours
	perHuffman     = 60 * nanosecond  // a block of a scan
	perArithmetic  = 10000 * nanosecond
	perInflateByte = 220 * nanosecond // a byte of deflated data: a new Huffman table costs more than what it decodes
	perPNGByte     = 5 * nanosecond   // a byte of a row: inflated, unfiltered and widened
	perMergedPixel = 4 * nanosecond   // a pixel of an interlaced PNG's pass, put into its place
	perGIFByte     = 20 * nanosecond
	perGIFPixel    = 4 * nanosecond // LZW
	perBMPByte     = 3 * nanosecond
	perTIFFBlock   = 20000 * nanosecond // a strip or tile: a decoder is made for each
	perTIFFByte    = 30 * nanosecond    // a byte of a strip or tile, deflated ones excepted
	perTIFFSample  = 5 * nanosecond     // a byte of a row: decompressed, added to its predictor and converted
	perFaxPixel    = 8 * nanosecond
	perVP8Pixel    = 40 * nanosecond
	perVP8LPixel   = 60 * nanosecond
	perWebPByte    = 30 * nanosecond
)

// budget returns how much work a file of this size may cost.
func budget(size int) picoseconds {
	return second / smallFile * picoseconds(max(size, smallFile))
}

// checkWork sets the Input's work and returns an error if that is too much.
func (c *Codec) checkWork(in *Input, resize torch.ResizeCost) error {
	h := &in.header
	in.work = h.work + picoseconds(resize.Weights)*perWeight + picoseconds(resize.Products)*perProduct
	limit := budget(len(in.data))
	if !c.config.Size.Keep() {
		// Whoever sets the size of the results accepts what results of that size cost.
		limit += picoseconds(in.width*in.height) * 14 * perProduct
	}
	step := max(h.step, picoseconds(resize.Weights)*perWeight, picoseconds(resize.Step)*perProduct)
	if in.work > limit || step > uninterrupted {
		return tooMuchWork(h, len(in.data))
	}
	return nil
}

func tooMuchWork(h *header, size int) *Error {
	return &Error{TooMuchWork, fmt.Sprintf("too much work: %s of %dx%d pixels in %d bytes: send fewer pixels, or another format", h.kind, h.width, h.height, size)}
}

// maxBlocks returns how many blocks the scans of a JPEG may have together.
func maxBlocks(in *Input) int64 {
	per := perHuffman
	if in.header.jpeg.Arithmetic {
		per = perArithmetic
	}
	first := picoseconds(in.header.jpeg.Blocks+torch.JPEGScanBlocks) * per // contained in the work
	return max(1, int64((budget(len(in.data))-in.work+first)/per))
}

// rowsAtATime returns how many rows of the source the resize takes at a time: about 256 KiB of pixels, and so few that a
// small source for a large target is interrupted.
func rowsAtATime(h header, resize torch.ResizeCost) int {
	const pixels = 1 << 16
	ofRow := picoseconds(resize.Products/int64(h.height)+1) * perProduct
	return min(h.height, max(1, pixels/h.width), max(4, int(uninterrupted/ofRow)))
}
