package rollout

import (
	"fmt"
	"math"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/torchherd/torchherd/server/internal/imagecodec"
)

// The least evidence by which a rule can be said to hold. It can be broken by less.
const (
	leastRequests = 20
	leastPairs    = 10
)

// confidence is the quantile of the normal distribution for a two-sided confidence of 95 %.
const confidence = 1.96

// equalPSNR stands for the infinite PSNR of equal images: above that of any two 8-bit images that differ, unless they have
// more than 150,000 values and differ by one level in one of them.
const equalPSNR = 100

// A latencies histogram has microseconds up to an hour with three digits.
func newLatencies() *hdrhistogram.Histogram { return hdrhistogram.New(1, time.Hour.Microseconds(), 3) }

// traffic is what one version did with requests.
type traffic struct {
	requests, errors uint64
	latencies        *hdrhistogram.Histogram
}

func (t *traffic) count(failed bool) {
	t.requests++
	if failed {
		t.errors++
	}
}

func (t *traffic) time(latency time.Duration) {
	_ = t.latencies.RecordValue(min(max(1, latency.Microseconds()), time.Hour.Microseconds())) // within its range
}

// quantile returns a latency in milliseconds.
func (t *traffic) quantile(q float64) float64 {
	return float64(t.latencies.ValueAtQuantile(100*q)) / 1000
}

// timed returns the number of latencies.
func (t *traffic) timed() uint64 { return uint64(t.latencies.TotalCount()) }

// above counts the latencies above a limit in milliseconds.
func (t *traffic) above(limit float64) uint64 {
	var count int64
	for _, bar := range t.latencies.Distribution() {
		if float64(bar.From)/1000 > limit {
			count += bar.Count
		}
	}
	return uint64(count)
}

// evidence is what is known of a candidate.
type evidence struct {
	serving   traffic // since the candidate came
	candidate traffic // since the step began

	pairs    uint64  // compared
	failures uint64  // pairs for which only one version had a result, or whose results have different sizes
	skipped  uint64  // sampled requests that weren't compared, since the server was busy
	squares  float64 // sum of the pairs' mean squared errors
	worst    float64 // the largest of them
}

func newEvidence() evidence {
	return evidence{serving: traffic{latencies: newLatencies()}, candidate: traffic{latencies: newLatencies()}}
}

// addPair adds the mean squared error of a pair.
func (e *evidence) addPair(squared float64) {
	e.pairs++
	e.squares += squared
	e.worst = max(e.worst, squared)
}

// mean is the PSNR of all pairs together; there must be one.
func (e *evidence) mean() float64 { return psnr(e.squares / float64(e.pairs)) }

// meanSquaredError compares two results. Grey is RGB with three equal values. ok is false if their sizes differ.
func meanSquaredError(a, b imagecodec.Image) (squared float64, ok bool) {
	channels := max(a.Channels, b.Channels)
	sameChannels := a.Channels == b.Channels || channels == 3 && min(a.Channels, b.Channels) == 1
	if a.Width != b.Width || a.Height != b.Height || !sameChannels || len(a.Pixels) == 0 || len(b.Pixels) == 0 {
		return 0, false
	}
	var sum uint64
	for i := range a.Width * a.Height {
		for c := range channels {
			d := int(valueOf(a, i, c)) - int(valueOf(b, i, c))
			sum += uint64(d * d)
		}
	}
	return float64(sum) / float64(a.Width*a.Height*channels), true
}

// valueOf returns a value of a pixel, by its number in the order of the rows.
func valueOf(img imagecodec.Image, pixel, channel int) byte {
	return img.Pixels[pixel*img.Channels+min(channel, img.Channels-1)]
}

// psnr is the peak signal-to-noise ratio of 8-bit images in dB: 10 log10(255²/MSE).
func psnr(squared float64) float64 {
	if squared == 0 {
		return equalPSNR
	}
	return min(equalPSNR, 10*math.Log10(255*255/squared))
}

// surely returns the lower bound of the share of events of which count happened in total trials, with 95 % confidence
// (E. B. Wilson, Probable inference, the law of succession, and statistical inference, 1927).
func surely(count, total uint64) float64 {
	if total == 0 {
		return 0
	}
	n, share, z := float64(total), float64(count)/float64(total), confidence
	return (share + z*z/(2*n) - z*math.Sqrt(share*(1-share)/n+z*z/(4*n*n))) / (1 + z*z/n)
}

// A finding is what the evidence says about a rule. Both texts empty: the rule holds.
type finding struct {
	broken string // how far the rule is missed
	lacks  string // what evidence is missing
}

func (r Rule) judge(e *evidence) finding {
	switch r.quantity {
	case errorShare:
		return r.judgeErrors(&e.candidate)
	case meanPSNR, worstPSNR:
		return r.judgePixels(e)
	case median, p99:
		return r.judgeLatency(e)
	}
	return finding{}
}

func (r Rule) judgeErrors(t *traffic) finding {
	if surely(t.errors, t.requests) > r.limit {
		return finding{broken: fmt.Sprintf("%d of %d requests failed, %s", t.errors, t.requests, percentage(float64(t.errors)/float64(t.requests)))}
	}
	return lacking(t.requests, leastRequests, "requests")
}

func (r Rule) judgePixels(e *evidence) finding {
	if e.pairs > 0 && r.quantity == worstPSNR && psnr(e.worst) <= r.limit {
		return finding{broken: fmt.Sprintf("the worst of %d pairs has %.1f dB", e.pairs, psnr(e.worst))}
	}
	if short := lacking(e.pairs, leastPairs, "pairs"); short.lacks != "" {
		return short
	}
	if r.quantity == meanPSNR && e.mean() <= r.limit {
		return finding{broken: fmt.Sprintf("%d pairs have %.1f dB", e.pairs, e.mean())}
	}
	return finding{}
}

func (r Rule) judgeLatency(e *evidence) finding {
	q := quantiles[r.quantity]
	least := max(leastRequests, uint64(math.Round(1/(1-q)))) // one is expected above the quantile
	limit := r.limit
	if r.relative {
		if short := lacking(e.serving.timed(), least, "requests of the serving version"); short.lacks != "" {
			return short
		}
		limit *= e.serving.quantile(q)
	}
	above, all := e.candidate.above(limit), e.candidate.timed()
	if surely(above, all) > 1-q {
		text := fmt.Sprintf("%s is %.1f ms", r.quantity, e.candidate.quantile(q))
		if r.relative {
			text += fmt.Sprintf(", %.2f times %.1f ms", e.candidate.quantile(q)/e.serving.quantile(q), e.serving.quantile(q))
		}
		return finding{broken: fmt.Sprintf("%s; %d of %d requests took longer than %.1f ms", text, above, all, limit)}
	}
	return lacking(all, least, "requests")
}

func lacking(have, least uint64, what string) finding {
	if have >= least {
		return finding{}
	}
	return finding{lacks: fmt.Sprintf("%d of %d %s", have, least, what)}
}

func percentage(share float64) string { return fmt.Sprintf("%.3g%%", 100*share) }
