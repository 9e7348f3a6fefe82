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

// The costs of what decoders do, each for its worst input, in picoseconds. docs/decisions/0015-bounded-decodes.md has what
// they were measured with.
const (
	perSineWeight = 45 * nanosecond // a weight of a resize with a filter that has a sine
	perWeight     = 20 * nanosecond // a weight of another filter
	perProduct    = 400             // a weight times a pixel, in both passes

	perJPEGByte       = 25 * nanosecond // a byte of a segment; restarts and tables cost most
	perJPEGPixel      = 8 * nanosecond  // a pixel of the output: inverse transform, upsampling and colours
	perHuffman        = 60 * nanosecond // a block of a scan
	perArithmetic     = 1000 * nanosecond
	perArithmeticByte = 1000 * nanosecond

	perRow             = 100 * nanosecond // a row of an image of another format
	perPixel           = 1 * nanosecond   // a pixel that is handed to the resize there
	perConverted       = 2 * nanosecond   // a pixel that is converted to RGB before
	perInflateByte     = 135 * nanosecond // a byte of deflated data of a PNG; see the decision about blocks that hold only tables
	perPNGByte         = 2500             // a byte of a row: inflated and unfiltered
	perMergedPixel     = 3 * nanosecond   // a pixel of an interlaced PNG, put into its place
	perGIFByte         = 20 * nanosecond
	perGIFPixel        = 5 * nanosecond
	perBMPByte         = 3 * nanosecond
	perTIFFBlock       = 5000 * nanosecond // a strip or tile: a decoder is made for each
	perTIFFByte        = 25 * nanosecond   // a byte of a strip or tile, unless it is deflated
	perTIFFSample      = 6 * nanosecond    // a byte of a row: decompressed, added to its predictor and converted
	perFaxPixel        = 7 * nanosecond
	perTIFFInflateByte = 40 * nanosecond // of deflated data, without its tables
	perFaxByte         = 60 * nanosecond
	perHuffmanTables   = 5000 * nanosecond // of a block of deflated data, counted while it is decoded
	perTIFFJPEGSample  = 25 * nanosecond
	perYCbCr           = 15 * nanosecond // a pixel of an AVIF, converted to RGB
	perAV1Symbol       = 20 * nanosecond // of AVIF
	perAV1Filtered     = 15 * nanosecond // a pixel in one of AV1's filters
	unitsOfAV1Block    = 20480           // what a block of 64x64 pixels costs besides its symbols, in symbols; see scripts/codecs.sh
	perHEVC            = 30 * nanosecond // a pixel of a HEIC; the rest is limited by time
	perWavelet         = 35 * nanosecond // a sample of a JPEG 2000
	perJ2KUnit         = 12 * nanosecond // a sample in a coding pass; see scripts/codecs/jpeg2000/opj_config_private.h
	perJ2KByte         = 40 * nanosecond
	perJ2KTile         = 20000 * nanosecond
	perVP8Pixel        = 22 * nanosecond
	perCoefficient     = 20 * nanosecond // of VP8
	perVP8LPixel       = 34 * nanosecond
	perVP8Byte         = 40 * nanosecond
	perVP8LByte        = 15 * nanosecond
	perShaped          = 20 * nanosecond // a pixel whose colour is converted by curves and a matrix
	perTables          = 100 * nanosecond
	perInks            = 200 * nanosecond
)

// budget returns how much work a file of this size may cost.
func budget(size int) picoseconds {
	return second / smallFile * picoseconds(max(size, smallFile))
}

// checkWork computes the Input's work and its limit, and returns an error if the work is too much.
func (c *Codec) checkWork(in *Input) error {
	h := &in.header
	in.work = h.work + c.setup(in) + picoseconds(in.resize.Products+in.sent.Products)*perProduct
	in.limit = budget(len(in.data))*picoseconds(max(1, h.budgets)) + in.granted
	if !c.config.Size.Keep() {
		// Whoever sets the size of the results accepts what results of that size cost: two passes of up to 7 products.
		in.limit += picoseconds(in.width*in.height) * 14 * perProduct
	}
	step := max(h.step, c.setup(in), picoseconds(in.resize.Step)*perProduct)
	if in.work > in.limit || step > uninterrupted {
		return tooMuchWork(h, len(in.data))
	}
	return nil
}

// setup returns the work of a resize before its first row.
func (c *Codec) setup(in *Input) picoseconds {
	if f := c.config.ResizeFilter; f == torch.Lanczos || f == torch.Hamming {
		return picoseconds(in.resize.Weights) * perSineWeight
	}
	return picoseconds(in.resize.Weights) * perWeight
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
	return max(1, int64((in.limit-in.work+first)/per))
}

// rowsAtATime returns how many rows of the source the resize takes at a time: about 256 KiB of pixels, and so few that a
// small source for a large target is interrupted.
func rowsAtATime(in *Input) int {
	const pixels = 1 << 16
	h := &in.header
	ofRow := picoseconds(in.resize.Products/int64(h.height)+1) * perProduct
	return min(h.height, max(1, pixels/h.width), max(4, int(uninterrupted/ofRow)))
}
