package loader

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/torchherd/torchherd/server/internal/isolation"
	"github.com/torchherd/torchherd/server/internal/servable"
	"github.com/torchherd/torchherd/server/internal/settings"
	"github.com/torchherd/torchherd/torch"
)

// A HintError is the failure of a model in its warm-up, with settings with which it ran.
type HintError struct {
	err    error
	Values []settings.Value
}

func (e *HintError) Error() string {
	return fmt.Sprintf("%v; it works with %s in %s", e.err, e.Settings(), settings.FileName)
}

func (e *HintError) Unwrap() error { return e.err }

// Settings returns the settings as in model.yaml, in one line.
func (e *HintError) Settings() string {
	texts := make([]string, len(e.Values))
	for i, value := range e.Values {
		texts[i] = value.Key + ": " + value.Text
	}
	return strings.Join(texts, " and ")
}

// These bound the search for settings: no run starts after maxHintTime, and there are at most maxHintRuns.
const (
	maxHintTime = 20 * time.Second
	maxHintRuns = 24
)

// These are the sizes that most models are exported for, the likeliest first, and the multiples that networks that halve
// their images need.
var (
	usualSides = []int{256, 224, 512, 384, 128, 64, 640, 1024}
	multiples  = []int{8, 16, 32, 64}
)

// A hunt runs an instance with other batches and sizes.
type hunt struct {
	p        *preparation
	instance int
	until    time.Time
	runs     int
	crashed  bool
}

// withHint adds the settings to a failure of the warm-up with which the instance works. It runs where the failure was, so
// with a trial in the child process, and tries nothing after a crash.
func (p *preparation) withHint(instance int, err error) error {
	if err == nil || p.ctx.Err() != nil || errors.As(err, new(*HintError)) || errors.As(err, new(*isolation.CrashError)) ||
		!errors.Is(err, torch.ErrForward) && !errors.Is(err, torch.ErrOutput) {
		return err
	}
	if failure := (*torch.Error)(nil); errors.As(err, &failure) && failure.Trace != "" {
		p.loader.shared.Log.Debug().Str("model", p.loader.source.Name()).Str("traceback", failure.Trace).Msg("the model failed: " + failure.Detail)
	}
	before := p.doing
	defer func() { p.doing = before }()
	h := &hunt{p: p, instance: instance, until: time.Now().Add(maxHintTime)}
	values := h.find(errors.Is(err, torch.ErrForward))
	if len(values) == 0 || h.crashed {
		return err
	}
	hinted := error(&HintError{err, values})
	if errors.As(err, new(sizeError)) {
		return sizeError{hinted}
	}
	return hinted
}

// find returns the settings; empty: none were found. Sizes and precisions are tried only for a model that failed while it
// ran: an output of the wrong form doesn't depend on them.
func (h *hunt) find(ran bool) []settings.Value {
	sizes, _ := h.p.cfg.WarmUpSizes()
	batch := h.p.cfg.MaxBatchSize
	if batch > 1 && !slices.ContainsFunc(sizes, func(size settings.Size) bool { return !h.works(1, size) }) {
		return []settings.Value{oneImage}
	}
	if !ran {
		return nil
	}
	size, works := h.size()
	if !works {
		return h.precision(sizes)
	}
	values := []settings.Value{{Key: "size", Text: size.String()}}
	if multiple := h.multiple(size, sizes); multiple > 0 {
		values = []settings.Value{{Key: "multiple-of", Text: fmt.Sprint(multiple)}}
	}
	if batch > 1 && !h.works(batch, size) {
		values = append(values, oneImage)
	}
	return values
}

// size returns the size that a package takes, or else the first usual size, or else the least size above the wanted one,
// that a single image can have.
func (h *hunt) size() (settings.Size, bool) {
	if size, works := h.packageSize(); works {
		return size, true
	}
	var candidates []settings.Size
	for _, side := range usualSides {
		candidates = append(candidates, settings.Size{Width: side, Height: side})
	}
	if wanted := h.p.cfg.Size; !wanted.Keep() {
		for _, multiple := range multiples {
			candidates = append(candidates, settings.Size{Width: roundUp(wanted.Width, multiple), Height: roundUp(wanted.Height, multiple)})
		}
	}
	for _, size := range candidates {
		if size != h.p.cfg.Size && h.works(1, size) {
			return size, true
		}
	}
	return settings.Size{}, false
}

// packageSize returns the size that a package was compiled for. Each of its refusals names one side.
func (h *hunt) packageSize() (settings.Size, bool) {
	sizes, _ := h.p.cfg.WarmUpSizes()
	size := sizes[0]
	for range 3 {
		err := h.try(1, size)
		if err == nil {
			return size, size != h.p.cfg.Size
		}
		var failure *torch.Error
		if !errors.As(err, &failure) || failure.Wants == nil {
			break
		}
		switch failure.Wants.Index {
		case 2:
			size.Height = failure.Wants.Size
		case 3:
			size.Width = failure.Wants.Size
		default:
			return settings.Size{}, false
		}
	}
	return settings.Size{}, false
}

// precision returns the precision with which a single image of each size works. In bf16 and fp16, LibTorch converts what
// convolutions and matrix products get to one type, so a module whose weights have several types may run. The file is loaded
// once more.
func (h *hunt) precision(sizes []settings.Size) []settings.Value {
	p := h.p
	if p.cfg.Precision != torch.FP32 || p.file.IsPackage() || !h.mayRun() || p.loader.checkMemory(p.file.Size(), len(p.copies)+1) != nil {
		return nil
	}
	precision := torch.BF16
	if p.device(h.instance) != torch.CPU {
		precision = torch.FP16
	}
	original, runners := p.copies[h.instance], p.runners
	defer func() { p.copies[h.instance], p.runners = original, runners }()
	var other servable.Instance
	err := p.step(func() (err error) {
		other, err = p.newInstance(h.instance, precision)
		return err
	})
	if err != nil {
		h.crashed = errors.As(err, new(*isolation.CrashError))
		return nil
	}
	p.copies[h.instance] = other
	works := !slices.ContainsFunc(sizes, func(size settings.Size) bool { return !h.works(1, size) })
	if err := other.Close(); err != nil || !works {
		return nil
	}
	return []settings.Value{{Key: "precision", Text: precision.String()}}
}

// multiple returns the least number of whose multiples both sides can be, if images keep their size: with it a single image
// of each size of the warm-up works. 0: there is none.
func (h *hunt) multiple(size settings.Size, sizes []settings.Size) int {
	if !h.p.cfg.Size.Keep() {
		return 0
	}
	for _, multiple := range multiples {
		fails := func(s settings.Size) bool {
			return !h.works(1, settings.Size{Width: roundUp(s.Width, multiple), Height: roundUp(s.Height, multiple)})
		}
		if !fails(settings.Size{Width: size.Width + multiple, Height: size.Height}) && !slices.ContainsFunc(sizes, fails) {
			return multiple
		}
	}
	return 0
}

// oneImage is the setting for a model that runs only one image at a time.
var oneImage = settings.Value{Key: "max-batch-size", Text: "1"}

func roundUp(n, multiple int) int { return (n + multiple - 1) / multiple * multiple }

// mayRun reports whether the search may go on.
func (h *hunt) mayRun() bool {
	return !h.crashed && h.runs < maxHintRuns && !time.Now().After(h.until) && h.p.ctx.Err() == nil
}

// works reports whether the instance runs a batch.
func (h *hunt) works(count int, size settings.Size) bool { return h.try(count, size) == nil }

// errEnough is the error of a run that the search may no longer make.
var errEnough = errors.New("loader: the search for settings has ended")

// try runs a batch on the instance.
func (h *hunt) try(count int, size settings.Size) error {
	if !h.mayRun() {
		return errEnough
	}
	h.runs++
	h.p.doing = describeBatch(count, size.Width, size.Height)
	err := h.p.step(func() error { return h.p.forward(h.instance, testImages(count, size.Width, size.Height)) })
	h.crashed = errors.As(err, new(*isolation.CrashError))
	return err
}
