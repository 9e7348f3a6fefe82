package imagecodec

// Details are what a file states beside its pixels, for tests.
type Details struct {
	EXIF, XMP, ICC []byte
	Places         bool // the EXIF data has a directory of places
}

// DetailsOf reads the details of a file.
func DetailsOf(data []byte) Details {
	d := sniff(data).details(data)
	icc, err := d.profile(data)
	if err != nil || d.iccSize == 0 {
		icc = nil
	}
	const tagGPS = 0x8825
	e, ok := parseEXIF(d.exif)
	if ok {
		_, ok = e.find(tagGPS)
	}
	return Details{d.exif, d.xmp, icc, ok}
}
