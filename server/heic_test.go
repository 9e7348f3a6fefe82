package main

import (
	"image"
	"image/color"
	"testing"

	"github.com/torchherd/torchherd/internal/goldens"
	"github.com/torchherd/torchherd/server/internal/heif"
)

// HEIC is refused by its name, with the flag that turns it on; with the flag it is an image like others.
func TestHEICByTheSystemsLibrary(t *testing.T) {
	t.Parallel()
	file := goldens.Read(t, "heic/grid.heic")
	off := start(t, module("identity.pt"))
	expectError(t, off.put(file), 415, "the format HEIC isn't supported here")
	program, err := heif.Program()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := heif.New(program); err != nil {
		t.Skip(err)
	}
	on := start(t, "--heic", "system", "--size", "keep", module("identity.pt"))
	r := on.putTo("/image?format=png", file)
	if r.status != 200 {
		t.Fatalf("%d, %s", r.status, r.body)
	}
	result := decodePNG(t, r.body)
	if got := result.Bounds().Size(); got != image.Pt(100, 150) {
		t.Errorf("%v pixels", got)
	}
	c := color.NRGBAModel.Convert(result.At(2, 2)).(color.NRGBA)
	if c.B < 230 || c.R > 60 || c.G > 70 { // the lower left corner is blue, and has been turned to the top
		t.Errorf("the first corner is %v", c)
	}
	expectError(t, on.put(file[:len(file)-2000]), 422, "broken HEIC")
	if r := on.put(file); r.status != 200 {
		t.Errorf("after a broken image: %d, %s", r.status, r.body)
	}
}
