package colour

import "math"

// High dynamic range becomes sRGB by ITU-R BT.2408: its reference white of 203 cd/m², the white of paper and of graphics, is
// sRGB's white, and what is brighter is cut off. So an sRGB image that was put into PQ or HLG comes back as it was.

// referenceWhite is in cd/m² (BT.2408-7, section 2.2).
const referenceWhite = 203

// fromPQ is the EOTF of PQ (BT.2100-2, table 4), in units of the reference white.
func fromPQ(v float64) float64 {
	const (
		m1, m2     = 2610.0 / 16384, 2523.0 / 4096 * 128
		c1, c2, c3 = 3424.0 / 4096, 2413.0 / 4096 * 32, 2392.0 / 4096 * 32
		most       = 10000 // cd/m²
	)
	p := math.Pow(v, 1/m2)
	return most / referenceWhite * math.Pow(max(p-c1, 0)/(c2-c3*p), 1/m1)
}

// fromHLG is the inverse OETF of HLG (BT.2100-2, table 5): the light of the scene, from 0 to 1.
func fromHLG(v float64) float64 {
	const a, b, c = 0.17883277, 0.28466892, 0.55991073
	if v <= 0.5 {
		return v * v / 3
	}
	return (math.Exp((v-c)/a) + b) / 12
}

// An ootf is the system gamma of HLG for a display of 1000 cd/m² (BT.2100-2, table 5): the light of each channel is multiplied by
// the 0.2th power of the luminance.
type ootf struct{ luma [3]float32 }

func hlgSystem(toXYZ matrix) *ootf {
	return &ootf{[3]float32{float32(toXYZ[1][0]), float32(toXYZ[1][1]), float32(toXYZ[1][2])}}
}

// gain returns by how much the light of a pixel's channels is multiplied, for light in units of the reference white.
func (o *ootf) gain(r, g, b float32) float32 {
	const peak, gamma = 1000, 1.2
	luminance := o.luma[0]*r + o.luma[1]*g + o.luma[2]*b
	return peak / float32(referenceWhite) * float32(math.Pow(float64(max(luminance, 0)), gamma-1))
}
