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
	pointsPerNine = 50  // from 90 to 99 %, from 99 to 99.9 % and so on
)

// WritePlot draws two charts as an SVG or PNG image: the latency by percentile, on a scale with the same distance from 90
// to 99 % as from 99 to 99.9 %, and the good responses in each second of the window.
func (r *Result) WritePlot(to io.Writer, format string) error {
	painter := charts.NewPainter(charts.PainterOptions{OutputFormat: format, Width: plotWidth, Height: 2 * plotHeight})
	upper := painter.Child(charts.PainterBoxOption(charts.NewBox(0, 0, plotWidth, plotHeight)))
	lower := painter.Child(charts.PainterBoxOption(charts.NewBox(0, plotHeight, plotWidth, 2*plotHeight)))
	if err := errors.Join(r.plotLatency(upper), r.plotThroughput(lower)); err != nil {
		return fmt.Errorf("plot: %w", err)
	}
	image, err := painter.Bytes()
	if err != nil {
		return fmt.Errorf("plot: %w", err)
	}
	_, err = to.Write(image)
	return err
}

// plotLatency draws latencies at equal steps of log10(1/(1-q)), which makes an axis with equal steps logarithmic. The
// axis has one nine for each digit of the number of responses, since more nines would describe less than one response.
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

// plotThroughput omits the incomplete second at the end of the window, which would look like a drop.
func (r *Result) plotThroughput(painter *charts.Painter) error {
	var responses []float64
	var labels []string
	for second, n := range r.Throughput[:min(max(int(r.Seconds), 1), len(r.Throughput))] {
		responses = append(responses, float64(n))
		labels = append(labels, strconv.Itoa(second+1))
	}
	return painter.LineChart(lineChart("good responses in each second", responses, labels))
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
