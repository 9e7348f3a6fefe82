//go:build !linux

package heif

import "context"

func program() (string, error) { return "", errNotHere }

func check(string) (string, error) { return "", errNotHere }

func (*Decoder) decode(context.Context, *Request) error { return errNotHere }
