package torch_test

import (
	"bytes"
	"testing"

	"github.com/torchherd/torchherd/internal/goldens"
	"github.com/torchherd/torchherd/torch"
)

// filters are all filters.
var filters = []torch.Filter{torch.Bilinear, torch.Nearest, torch.Lanczos, torch.Bicubic, torch.Box, torch.Hamming}

func TestFilterNames(t *testing.T) {
	for i, name := range []string{"bilinear", "nearest", "lanczos", "bicubic", "box", "hamming"} {
		if f, err := torch.NewFilter(name); err != nil || f != filters[i] || f.String() != name {
			t.Errorf("%s: %v, %v", name, f, err)
		}
	}
	if filter := (torch.DecodeOptions{}).Filter; filter != torch.Bilinear {
		t.Errorf("the default filter is %v", filter)
	}
	_, err := torch.NewFilter("cubic")
	expectKind(t, err, torch.ErrInvalidArgument)
	pixels := make([]byte, 228*228*3)
	for _, absent := range []torch.Filter{-1, 6} {
		expectKind(t, torch.Resize(pixels, 228, 228, 3, torch.Upright, absent, 1, 1, make([]byte, 3)), torch.ErrInvalidArgument)
		options := torch.DecodeOptions{Filter: absent}
		expectKind(t, torch.DecodeJPEG(t.Context(), goldens.Read(t, "pictures/jpeg-420.jpg"), options, 228, 228, pixels), torch.ErrInvalidArgument)
	}
}

// DecodeJPEG with a filter equals decoding followed by Resize.
func TestDecodeJPEGByEachFilter(t *testing.T) {
	jpeg := goldens.Read(t, "pictures/jpeg-420.jpg")
	header, err := torch.ReadJPEGHeader(jpeg)
	if err != nil {
		t.Fatal(err)
	}
	stored := make([]byte, header.Width*header.Height*3)
	if err := torch.DecodeJPEG(t.Context(), jpeg, torch.DecodeOptions{Orientation: torch.Upright}, header.Width, header.Height, stored); err != nil {
		t.Fatal(err)
	}
	const sideways torch.Orientation = 6
	seen := map[string]torch.Filter{}
	for _, filter := range filters {
		got, want := make([]byte, 50*40*3), make([]byte, 50*40*3)
		if err := torch.DecodeJPEG(t.Context(), jpeg, torch.DecodeOptions{Orientation: sideways, Filter: filter}, 50, 40, got); err != nil {
			t.Fatal(err)
		}
		if err := torch.Resize(stored, header.Width, header.Height, 3, sideways, filter, 50, 40, want); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%v: differs from decoding followed by Resize", filter)
		}
		if other, ok := seen[string(got)]; ok {
			t.Errorf("%v and %v have the same output", filter, other)
		}
		seen[string(got)] = filter
	}
}

// DecodeOptions.Gray converts a gray JPEG to RGB with equal channels.
func TestDecodeGrayJPEG(t *testing.T) {
	jpeg := goldens.Read(t, "pictures/jpeg-gray.jpg")
	pixels := make([]byte, 64*48*3)
	expectKind(t, torch.DecodeJPEG(t.Context(), jpeg, torch.DecodeOptions{}, 64, 48, pixels), torch.ErrNotRGB)
	for _, scaled := range []bool{false, true} {
		if err := torch.DecodeJPEG(t.Context(), jpeg, torch.DecodeOptions{Gray: true, Scaled: scaled}, 64, 48, pixels); err != nil {
			t.Fatal(err)
		}
		levels := map[byte]bool{}
		for i := 0; i < len(pixels); i += 3 {
			levels[pixels[i]] = true
			if pixels[i] != pixels[i+1] || pixels[i] != pixels[i+2] {
				t.Fatalf("pixel %d is %v", i/3, pixels[i:i+3])
			}
		}
		if len(levels) < 50 {
			t.Errorf("only %d levels", len(levels))
		}
	}
}
