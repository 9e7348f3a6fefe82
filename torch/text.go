package torch

// The types below implement encoding.TextMarshaler and TextUnmarshaler, for configuration files and flags.
// UnmarshalText accepts the names that the New functions accept, and returns their errors.

// UnmarshalText parses a device's name; see NewDevice.
func (d *Device) UnmarshalText(text []byte) (err error) {
	*d, err = NewDevice(string(text))
	return err
}

// MarshalText returns the device's name; see Device.String.
func (d Device) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText parses a precision's name; see NewPrecision.
func (p *Precision) UnmarshalText(text []byte) (err error) {
	*p, err = NewPrecision(string(text))
	return err
}

// MarshalText returns the precision's name; see Precision.String.
func (p Precision) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText parses a filter's name; see NewFilter.
func (f *Filter) UnmarshalText(text []byte) (err error) {
	*f, err = NewFilter(string(text))
	return err
}

// MarshalText returns the filter's name; see Filter.String.
func (f Filter) MarshalText() ([]byte, error) { return []byte(f.String()), nil }

// UnmarshalText parses the name of channels; see NewChannels.
func (c *Channels) UnmarshalText(text []byte) (err error) {
	*c, err = NewChannels(string(text))
	return err
}

// MarshalText returns the channels' name; see Channels.String.
func (c Channels) MarshalText() ([]byte, error) { return []byte(c.String()), nil }
