package cpu

import "testing"

// A model's nice value is the number of steps of 1.25 by which its weight is below the largest one.
func TestNiceValues(t *testing.T) {
	shares := NewShares()
	for model, weight := range map[string]int{"heavy": 4, "light": 1, "lightest of all": 1} {
		shares.Set(model, weight)
	}
	for model, want := range map[string]int{"heavy": 0, "light": 6} {
		if got := shares.Nice(model); got != want {
			t.Errorf("%s: nice %d, want %d", model, got, want)
		}
	}
	shares.Set("heavy", 1000)
	if got := shares.Nice("light"); got != maxNice {
		t.Errorf("with weights of 1 and 1000: nice %d, want %d", got, maxNice)
	}
}
