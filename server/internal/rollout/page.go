package rollout

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"html/template"
	"image/png"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/torchherd/torchherd/server/internal/imagecodec"
)

// keptPairs is how many pairs a page shows.
const keptPairs = 10

const pageName = "index.html"

//go:embed page.html
var pageText string

var pageTemplate = template.Must(template.New(pageName).Parse(pageText))

// A page is a folder with the pairs of results that differ most, and an HTML file that shows them. The folder is readable
// for its owner alone, since it has images that clients sent. Its methods must not be called at the same time.
type page struct {
	file    string // the HTML file's path
	folder  string
	heading pageHeading
	pairs   []pair // whose files are in the folder, the worst first; at most keptPairs
	next    int    // number of the next pair
}

type pageHeading struct{ Model, Version, Against string }

// A pair is a request's two results.
type pair struct {
	squared            float64 // mean squared error; infinite if there aren't two results of one size
	sent               []byte
	serving, candidate imagecodec.Image
	failure            error // of the version that ran second
	shown              shownPair
}

// A shownPair is what the page says of a pair. Files are empty where there is no image.
type shownPair struct {
	PSNR, Failure                        string
	Sent, Serving, Candidate, Difference string // files
}

// newPage makes a page's folder, within dir, and removes an earlier candidate's files from it.
func newPage(dir string, heading pageHeading) (*page, error) {
	folder := filepath.Join(dir, heading.Model, heading.Version)
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil, err
	}
	p := &page{file: filepath.Join(folder, pageName), folder: folder, heading: heading}
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), "pair-") {
			err = errors.Join(err, os.Remove(filepath.Join(folder, entry.Name())))
		}
	}
	if err != nil {
		return nil, err
	}
	return p, p.writeIndex()
}

// add shows a pair if it is among the worst, in place of one that isn't any longer.
func (p *page) add(added pair) error {
	at := slices.IndexFunc(p.pairs, func(each pair) bool { return each.squared < added.squared })
	if at < 0 {
		at = len(p.pairs)
	}
	if at == keptPairs {
		return nil
	}
	p.next++
	if err := p.writeFiles(&added); err != nil {
		return err
	}
	added.sent, added.serving.Pixels, added.candidate.Pixels = nil, nil, nil
	p.pairs = slices.Insert(p.pairs, at, added)
	var dropped []pair
	if len(p.pairs) > keptPairs {
		dropped = slices.Clone(p.pairs[keptPairs:])
		p.pairs = p.pairs[:keptPairs]
	}
	err := p.writeIndex()
	for _, each := range dropped {
		for _, name := range []string{each.shown.Sent, each.shown.Serving, each.shown.Candidate, each.shown.Difference} {
			if name != "" {
				err = errors.Join(err, os.Remove(filepath.Join(p.folder, name)))
			}
		}
	}
	return err
}

// writeFiles writes a pair's images.
func (p *page) writeFiles(of *pair) error {
	of.shown = shownPair{PSNR: "no PSNR"}
	if of.failure != nil {
		of.shown.Failure = of.failure.Error()
	}
	if !math.IsInf(of.squared, 1) {
		of.shown.PSNR = fmt.Sprintf("%.1f dB", psnr(of.squared))
	}
	write := func(name string, content []byte) (string, error) {
		name = fmt.Sprintf("pair-%d-%s", p.next, name)
		return name, os.WriteFile(filepath.Join(p.folder, name), content, 0o600)
	}
	var err error
	if of.shown.Sent, err = write("sent"+extension(of.sent), of.sent); err != nil {
		return err
	}
	if of.shown.Serving, err = writePNG(write, "serving.png", of.serving); err != nil {
		return err
	}
	if of.shown.Candidate, err = writePNG(write, "candidate.png", of.candidate); err != nil {
		return err
	}
	of.shown.Difference, err = writePNG(write, "difference.png", difference(of.serving, of.candidate))
	return err
}

// extension is the end of the name of a file with this image.
func extension(content []byte) string {
	kind, isImage := strings.CutPrefix(http.DetectContentType(content), "image/")
	if !isImage {
		return ".bin"
	}
	return "." + kind
}

// writePNG writes an image, if it has pixels.
func writePNG(write func(string, []byte) (string, error), name string, img imagecodec.Image) (string, error) {
	if len(img.Pixels) == 0 {
		return "", nil
	}
	var file bytes.Buffer
	if err := png.Encode(&file, img.Standard()); err != nil {
		return "", err
	}
	return write(name, file.Bytes())
}

// difference returns the absolute differences of two images, stretched so that the largest is white; without pixels if the
// sizes differ.
func difference(a, b imagecodec.Image) imagecodec.Image {
	if _, equalSizes := meanSquaredError(a, b); !equalSizes {
		return imagecodec.Image{}
	}
	d := imagecodec.Image{Width: a.Width, Height: a.Height, Channels: 1, Pixels: make([]byte, a.Width*a.Height)}
	most := byte(1)
	for i := range d.Pixels {
		for c := range max(a.Channels, b.Channels) {
			one, other := valueOf(a, i, c), valueOf(b, i, c)
			d.Pixels[i] = max(d.Pixels[i], max(one, other)-min(one, other))
		}
		most = max(most, d.Pixels[i])
	}
	for i, value := range d.Pixels {
		d.Pixels[i] = byte(255 * int(value) / int(most))
	}
	return d
}

// writeIndex writes the HTML file in one step.
func (p *page) writeIndex() error {
	shown := make([]shownPair, len(p.pairs))
	for i := range p.pairs {
		shown[i] = p.pairs[i].shown
	}
	var text bytes.Buffer
	err := pageTemplate.Execute(&text, struct {
		pageHeading
		Pairs []shownPair
	}{p.heading, shown})
	if err != nil {
		return err
	}
	if err := os.WriteFile(p.file+".new", text.Bytes(), 0o600); err != nil {
		return err
	}
	return os.Rename(p.file+".new", p.file)
}
