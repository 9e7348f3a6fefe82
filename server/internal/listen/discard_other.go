//go:build !linux

package listen

import "net"

func dropTCP(conn *net.TCPConn, into []byte) (int, error) { return conn.Read(into) }
