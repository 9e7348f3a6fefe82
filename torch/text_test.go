package torch_test

import (
	"encoding"
	"fmt"
	"testing"

	"github.com/torchherd/torchherd/torch"
)

// Each type reads the text that it writes, and refuses other text with the error of its New function.
func TestTextRoundTrip(t *testing.T) {
	for _, test := range []struct {
		into  encoding.TextUnmarshaler
		names []string
		kind  torch.Kind
	}{
		{new(torch.Device), []string{"cpu", "cuda:0", "cuda:7"}, torch.ErrDevice},
		{new(torch.Precision), []string{"fp32", "tf32", "bf16", "fp16"}, torch.ErrInvalidArgument},
		{new(torch.Filter), []string{"bilinear", "nearest", "lanczos", "bicubic", "box", "hamming"}, torch.ErrInvalidArgument},
		{new(torch.Channels), []string{"rgb", "bgr", "gray"}, torch.ErrInvalidArgument},
	} {
		for _, name := range test.names {
			if err := test.into.UnmarshalText([]byte(name)); err != nil {
				t.Errorf("%T: %s: %v", test.into, name, err)
			}
			written, err := test.into.(encoding.TextMarshaler).MarshalText()
			if err != nil || string(written) != name || fmt.Sprint(test.into) != name {
				t.Errorf("%T: %s was written as %s, %v", test.into, name, written, err)
			}
		}
		expectKind(t, test.into.UnmarshalText([]byte("none of these")), test.kind)
	}
}
