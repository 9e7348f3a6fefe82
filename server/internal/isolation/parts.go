package isolation

import (
	"encoding/binary"
	"math"

	"github.com/torchherd/torchherd/torch"
)

// The further inputs of a batch follow the offsets of its images and results: the numbers of images and of numbers that
// each item has, then for each of those images its height, width and the offsets of the items', and for each of the numbers
// the items' values.

// appendParts appends the further inputs of a batch. place returns the offset of an image in the arena.
func appendParts(to []byte, parts *torch.Parts, place func([]byte) uint64) []byte {
	if parts == nil {
		return to
	}
	to = binary.LittleEndian.AppendUint32(to, uint32(len(parts.Images)))
	to = binary.LittleEndian.AppendUint32(to, uint32(len(parts.Numbers)))
	for _, images := range parts.Images {
		to = binary.LittleEndian.AppendUint32(to, uint32(images.Height))
		to = binary.LittleEndian.AppendUint32(to, uint32(images.Width))
		for _, item := range images.Items {
			to = binary.LittleEndian.AppendUint64(to, place(item))
		}
	}
	for _, numbers := range parts.Numbers {
		for _, number := range numbers {
			to = binary.LittleEndian.AppendUint64(to, math.Float64bits(number))
		}
	}
	return to
}

// parseParts reads what appendParts has written for a batch of count items. The images lie in the arena.
func parseParts(from []byte, count int, arena []byte) (*torch.Parts, error) {
	if len(from) == 0 {
		return nil, nil //nolint:nilnil // none is a valid result
	}
	if len(from) < 8 {
		return nil, errShort
	}
	images, numbers := int(binary.LittleEndian.Uint32(from)), int(binary.LittleEndian.Uint32(from[4:]))
	from = from[8:]
	if len(from) != images*(8+8*count)+numbers*8*count {
		return nil, errShort
	}
	parts := &torch.Parts{}
	for range images {
		part := torch.Images{Height: int(binary.LittleEndian.Uint32(from)), Width: int(binary.LittleEndian.Uint32(from[4:])), Channels: 3}
		from = from[8:]
		for range count {
			part.Items = append(part.Items, arena[binary.LittleEndian.Uint64(from):][:part.Height*part.Width*3])
			from = from[8:]
		}
		parts.Images = append(parts.Images, part)
	}
	for range numbers {
		values := make([]float64, count)
		for i := range values {
			values[i] = math.Float64frombits(binary.LittleEndian.Uint64(from))
			from = from[8:]
		}
		parts.Numbers = append(parts.Numbers, values)
	}
	return parts, nil
}
