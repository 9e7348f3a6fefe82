package servable

import (
	"context"

	"github.com/torchherd/torchherd/server/internal/batch"
	"github.com/torchherd/torchherd/server/internal/imagecodec"
	"github.com/torchherd/torchherd/server/internal/settings"
)

// A tiledRun takes an image through the model in tiles.
//
// Tiles are jobs like any other, so they share batches with the tiles and images of other requests. A group of them is in
// the queue or in the model at a time: as many as the instances take in one batch each. So whatever comes meanwhile waits for
// one group at most. The next group is cut while one is in the model, and goes there before the outputs of that one are
// joined.
type tiledRun struct {
	*admission
	ctx    context.Context //nolint:containedctx // lives as long as the call
	image  *job            // the whole image, which never enters a batch itself
	mosaic *imagecodec.Mosaic
	cut    int // number of tiles that have been cut
}

// A tileGroup is tiles that are in the queue or in the model together.
type tileGroup struct {
	jobs []*job
	wait func() ([]batch.Reply[error], error)
}

// tilesTogether returns how many tiles of a request are in the queue or in the model at a time.
func (s *Servable) tilesTogether() int {
	return s.config.Settings.MaxBatchSize * len(s.config.Instances)
}

// runTiles sets a job's output to that of the model on its image's tiles. Errors: those of batch.Arrival.SubmitAll,
// *CrashError, *ModelError, and the context's cause.
func (a *admission) runTiles(j *job) error {
	ctx, cancel := context.WithCancel(a.ctx)
	defer cancel()
	r := tiledRun{admission: a, ctx: ctx, image: j, mosaic: a.servable.config.Codec.NewMosaic(a.tiling)}
	defer r.mosaic.Close()
	group, err := r.next()
	if err == nil {
		err = r.submit(&group)
	}
	for err == nil && len(group.jobs) > 0 {
		var following tileGroup
		following, err = r.next()
		if err == nil {
			err = r.await(&group)
		}
		if err == nil && len(following.jobs) > 0 {
			err = r.submit(&following)
		}
		if err == nil {
			err = r.join(&group)
		}
		if err != nil {
			cancel()
			r.drop(&group)
		}
		group = following
	}
	if err != nil {
		cancel()
		r.drop(&group)
		return err
	}
	j.output = r.mosaic.Result()
	return nil
}

// next cuts the next tiles; none: all have been cut.
func (r *tiledRun) next() (tileGroup, error) {
	end := min(r.cut+r.servable.tilesTogether(), r.tiling.Count())
	if r.cut == end {
		return tileGroup{}, nil
	}
	c := &r.servable.config
	tiles, err := c.Codec.Cut(r.ctx, r.tiling, r.image.input, r.cut, end)
	if err != nil {
		return tileGroup{}, err
	}
	group := tileGroup{jobs: make([]*job, len(tiles))}
	for i, tile := range tiles {
		group.jobs[i] = r.servable.jobs.get(tile, nil)
	}
	if err := r.addParts(&group, end); err != nil {
		r.drop(&group)
		return tileGroup{}, err
	}
	r.cut = end
	return group, nil
}

// addParts adds the further inputs: of images that have the image's size the same tiles, and the others whole.
func (r *tiledRun) addParts(group *tileGroup, end int) error {
	whole := r.image.parts
	if whole == nil {
		return nil
	}
	for _, j := range group.jobs {
		j.parts = &parts{numbers: whole.numbers}
	}
	next := 0
	for _, part := range r.servable.config.Parts {
		if part.Codec == nil {
			continue
		}
		img := whole.images[next]
		next++
		var tiles []imagecodec.Image
		if part.Size.Keep() {
			var err error
			if tiles, err = part.Codec.Cut(r.ctx, r.tiling, img, r.cut, end); err != nil {
				return err
			}
		}
		for i, j := range group.jobs {
			if tiles == nil {
				own := img
				own.Pixels = part.Codec.Alloc(len(img.Pixels))
				copy(own.Pixels, img.Pixels)
				j.parts.images = append(j.parts.images, own)
			} else {
				j.parts.images = append(j.parts.images, tiles[i])
			}
		}
	}
	for _, j := range group.jobs {
		j.parts.key = j.parts.keyOf(r.servable.config.Parts)
	}
	return nil
}

func (r *tiledRun) submit(group *tileGroup) (err error) {
	group.wait, err = r.arrival.SubmitAll(r.ctx, group.jobs)
	return err
}

// await waits for the outputs of a group.
func (r *tiledRun) await(group *tileGroup) error {
	replies, err := group.wait()
	group.wait = nil
	if err != nil {
		return err
	}
	var queue, forward = replies[0].Queue, replies[0].Run
	for _, reply := range replies {
		if reply.Result != nil {
			return reply.Result
		}
		queue, forward = max(queue, reply.Queue), max(forward, reply.Run)
	}
	r.stages.Queue += queue
	r.stages.Forward += forward
	if r.stages.BatchSize == 0 {
		r.stages.BatchSize = replies[0].BatchSize
	}
	return nil
}

// join joins the outputs of a group with those before, and takes its jobs back.
func (r *tiledRun) join(group *tileGroup) error {
	outputs := make([]imagecodec.Image, len(group.jobs))
	for i, j := range group.jobs {
		outputs[i] = j.output
		j.recycleInput(r.servable.config.Codec) // the batch has dropped the job
		r.servable.jobs.put(j)
	}
	group.jobs = nil
	err := r.mosaic.Add(r.ctx, outputs)
	if unfit, ok := err.(*imagecodec.OutputError); ok { //nolint:errorlint // the mosaic's own, never wrapped
		return &ModelError{unfit}
	}
	return err
}

// drop gives a group up. Its tiles that wait leave the queue, since the context has ended.
func (r *tiledRun) drop(group *tileGroup) {
	if group.wait != nil {
		_, _ = group.wait()
		group.wait = nil
	}
	for _, j := range group.jobs {
		j.drop(r.servable.config.Codec)
	}
	group.jobs = nil
}

// learnScale records how many times as large as its input the model's output is.
func (s *Servable) learnScale(in, out imagecodec.Image) error {
	size := settings.Size{Width: in.Width, Height: in.Height}
	if s.config.Settings.Tile != 0 {
		if err := imagecodec.CheckTileOutput(size, out); err != nil {
			return err
		}
	}
	s.scale.Store(int32(imagecodec.ScaleOf(size, settings.Size{Width: out.Width, Height: out.Height})))
	return nil
}

// knownScale returns the scale of the model's output, if it is that of all images; 0: it isn't known before the model has
// run.
func (s *Servable) knownScale() int {
	if s.config.Settings.Size.Keep() && s.config.Settings.Tile == 0 {
		return 0
	}
	return int(s.scale.Load())
}
