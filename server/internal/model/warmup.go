package model

import (
	"errors"
	"fmt"
	"time"

	"github.com/torchherd/torchherd/server/internal/cpu"
	"github.com/torchherd/torchherd/server/internal/imagecodec"
	"github.com/torchherd/torchherd/torch"
)

// setUp makes an instance ready; the calling thread is its runner's.
//
// Most of the work is done once for a module, whatever the thread: the file is read, and TorchScript compiles. Beside
// others who are being served it is left to a thread in the background. Only what belongs to a thread is left to the
// runner's: what LibTorch caches there. That too takes one thread at first, since two forwards that are spread over the
// same cores wait for each other's threads.
func (m *Model) setUp(instance int) error {
	start := time.Now()
	var err error
	if m.gentle {
		err = cpu.InBackground(func() error { return m.prepare(instance) })
	} else {
		err = m.prepare(instance)
	}
	if err != nil {
		return err
	}
	if err := m.host.Shares.Enter(m.name); err != nil {
		return err
	}
	threads := m.threads
	if m.gentle {
		threads = 1
	}
	if err := torch.SetNumThreads(threads); err != nil {
		return err
	}
	if m.warms() {
		err := m.eachSize(func(width, height int) error { return m.eachBatch(width, height, 1, instance) })
		if err != nil {
			return err
		}
	}
	// The setting is the calling thread's, and so each instance's.
	if err := torch.SetNumThreads(m.threads); err != nil {
		return err
	}
	m.warmUp.Took += time.Since(start)
	if m.host.TimedRuns == 0 || instance > 0 || !m.warms() {
		return nil
	}
	return m.eachSize(func(width, height int) error { return m.time(instance, width, height) })
}

// warms tells whether the model takes the pictures of the warm-up.
func (m *Model) warms() bool { return m.warmUp.Err == nil }

// prepare loads an instance, checks it, and runs it until TorchScript has compiled it, all on one thread. It also decides
// how many threads a forward may use.
func (m *Model) prepare(instance int) error {
	if err := torch.SetNumThreads(1); err != nil {
		return err
	}
	err := m.sparingly(func() error {
		module, err := m.file.Load(m.options(instance))
		if err == nil {
			m.modules = append(m.modules, module)
		}
		return err
	})
	if err != nil {
		return err
	}
	if instance == 0 {
		m.warming()
	}
	err = m.eachSize(func(width, height int) error { return m.prepareAt(instance, width, height) })
	if ofSize := (sizeError{}); errors.As(err, &ofSize) && m.guessesSize() {
		m.warmUp.Err, m.threads, err = ofSize, max(1, m.threads), nil
	}
	return err
}

// compile runs an instance that has been checked until it runs at full speed. TorchScript watches its first run and
// compiles what it saw during the second; on the CPU that serves all shapes, so the check is the first run and the
// largest batch the second. (The bundled model took as long in its first run of a further shape as in later ones.) On
// CUDA each shape has these two, and a CUDA graph is made in the third.
func (m *Model) compile(instance, width, height int) error {
	if m.device(instance) == torch.CPU {
		return m.runSparingly(instance, testImages(m.settings.MaxBatchSize, width, height))
	}
	return m.eachBatch(width, height, 3, instance)
}

// guessesSize tells whether the size of the warm-up is only our choice.
func (m *Model) guessesSize() bool {
	_, guessed := m.settings.WarmUpSizes()
	return guessed
}

// eachSize calls do for each size that pictures are known to have.
func (m *Model) eachSize(do func(width, height int) error) error {
	sizes, _ := m.settings.WarmUpSizes()
	for _, size := range sizes {
		if err := do(m.codec.Target(size.Width, size.Height)); err != nil {
			return err
		}
	}
	return nil
}

// A sizeError is that of a model that fails already with one picture, perhaps because of the picture's size.
type sizeError struct{ error }

func (e sizeError) Unwrap() error { return e.error }

func (m *Model) prepareAt(instance, width, height int) error {
	err := m.sparingly(func() error { return m.modules[instance].CheckFinite(pictures(testImages(1, width, height))) })
	if err != nil {
		err = explainWarmUp(1, width, height, err)
		if errors.Is(err, torch.ErrForward) {
			return sizeError{err}
		}
		return err
	}
	if err := m.compile(instance, width, height); err != nil {
		return err
	}
	if m.threads == 0 {
		return m.sparingly(func() error { return m.chooseThreads(instance, testImages(1, width, height)) })
	}
	return nil
}

// eachBatch runs an instance so many times at each batch size. The largest comes first, so that memory is taken at once.
func (m *Model) eachBatch(width, height, runs, instance int) error {
	for size := m.settings.MaxBatchSize; size >= 1; size-- {
		items := testImages(size, width, height)
		for range runs {
			if err := m.runSparingly(instance, items); err != nil {
				return err
			}
		}
	}
	return nil
}

// chooseThreads decides by how long an image takes on one thread, which is the setting at this time.
func (m *Model) chooseThreads(instance int, items []imagecodec.Image) error {
	if m.threads = 1; m.device(instance) != torch.CPU {
		return nil
	}
	var err error
	m.threads, err = cpu.ChooseThreads(m.host.Cores, m.Instances(), func() error {
		_, err := m.runOnce(instance, items)
		return err
	})
	return err
}

func (m *Model) runSparingly(instance int, items []imagecodec.Image) error {
	return m.sparingly(func() error {
		_, err := m.runOnce(instance, items)
		return err
	})
}

// runOnce takes a batch through an instance.
func (m *Model) runOnce(instance int, items []imagecodec.Image) ([]imagecodec.Image, error) {
	finish, err := m.run(instance, items)
	var answers []imagecodec.Image
	if err == nil {
		answers, err = finish()
	}
	if err != nil {
		return nil, explainWarmUp(len(items), items[0].Width, items[0].Height, err)
	}
	return answers, nil
}

func explainWarmUp(count, width, height int, err error) error {
	return fmt.Errorf("model: the warm-up with %d picture(s) of %dx%d failed: %w", count, width, height, err)
}

func testImages(count, width, height int) []imagecodec.Image {
	items := make([]imagecodec.Image, count)
	for i := range items {
		items[i] = testImage(width, height)
	}
	return items
}

// testImage is a soft pattern in colour: nothing that a model for photographs would stumble over.
func testImage(width, height int) imagecodec.Image {
	p := imagecodec.Image{Width: width, Height: height, Channels: 3, Pixels: make([]byte, width*height*3)}
	for i := range p.Pixels {
		p.Pixels[i] = byte(64 + i%128)
	}
	return p
}

// sparingly does a piece of the work of a load, and rests afterwards if others are being served.
func (m *Model) sparingly(work func() error) error {
	var throttle cpu.Throttle
	if m.gentle {
		throttle.Cores = m.host.Cores
	}
	return throttle.Do(work)
}
