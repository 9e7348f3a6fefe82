package imagecodec

// Details are what a file states beside its pixels, for tests.
type Details struct{ EXIF, XMP, ICC []byte }

// DetailsOf reads the details of a file.
func DetailsOf(data []byte) Details {
	d := sniff(data).details(data)
	icc, err := d.profile(data)
	if err != nil || d.iccSize == 0 {
		icc = nil
	}
	return Details{d.exif, d.xmp, icc}
}
