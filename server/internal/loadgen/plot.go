package loadgen

import (
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"

	"github.com/go-analyze/charts"
)

// Formats of plots.
const (
	SVG = charts.ChartOutputSVG
	PNG = charts.ChartOutputPNG
)

const (
	plotWidth     = 900
	plotHeight    = 360 // of each of the two charts
	pointsPerNine = 50  // from 90 to 99 %, from 99 to 99.9 %, ...
)

// WritePlot draws two charts as an SVG or PNG picture: the latencies by percentile, on a scale that gives 90 to 99 % as
// much room as 99 to 99.9 %, and the good answers in each second of the window.
func (r *Result) WritePlot(to io.Writer, format string) error {
	painter := charts.NewPainter(charts.PainterOptions{OutputFormat: format, Width: plotWidth, Height: 2 * plotHeight})
	upper := painter.Child(charts.PainterBoxOption(charts.NewBox(0, 0, plotWidth, plotHeight)))
	lower := painter.Child(charts.PainterBoxOption(charts.NewBox(0, plotHeight, plotWidth, 2*plotHeight)))
	if err := errors.Join(r.plotLatency(upper), r.plotThroughput(lower)); err != nil {
		return fmt.Errorf("plot: %w", err)
	}
	picture, err := painter.Bytes()
	if err != nil {
		return fmt.Errorf("plot: %w", err)
	}
	_, err = to.Write(picture)
	return err
}

// plotLatency draws latencies at equal steps of log10(1/(1-q)), for which an axis of equal steps is logarithmic. The
// axis has a nine for each digit of the number of answers, since more nines would tell of no answer.
func (r *Result) plotLatency(painter *charts.Painter) error {
	nines := len(strconv.Itoa(max(r.Good-1, 1)))
	var latencies []float64
	var labels []string
	for point := range nines*pointsPerNine + 1 {
		percent := 100 * (1 - math.Pow(10, -float64(point)/pointsPerNine))
		latencies = append(latencies, quantile(r.latency, percent))
		labels = append(labels, strconv.FormatFloat(percent, 'g', max(nines, 2), 64)+" %")
	}
	option := lineChart("latency in ms, by percentile, of "+r.URL, latencies, labels)
	option.XAxis.LabelCount = nines + 1
	return painter.LineChart(option)
}

// plotThroughput leaves out the part of a second that the window may end with: it would look like a fall.
func (r *Result) plotThroughput(painter *charts.Painter) error {
	var answers []float64
	var labels []string
	for second, n := range r.Throughput[:min(max(int(r.Seconds), 1), len(r.Throughput))] {
		answers = append(answers, float64(n))
		labels = append(labels, strconv.Itoa(second+1))
	}
	return painter.LineChart(lineChart("good answers in each second", answers, labels))
}

func lineChart(title string, values []float64, labels []string) charts.LineChartOption {
	option := charts.NewLineChartOptionWithData([][]float64{values})
	option.Title.Text = title
	option.XAxis.Labels = labels
	option.XAxis.BoundaryGap = charts.Ptr(false)
	option.YAxis[0].Min = charts.Ptr(0.0)
	option.ValueFormatter = number
	option.Symbol.Shape = charts.SymbolNone
	return option
}
