package listen

import (
	"io"
	"net"

	"golang.org/x/sys/unix"
)

// dropTCP is drop for a TCP connection, where MSG_TRUNC makes Linux drop bytes without copying them (tcp(7)).
func dropTCP(conn *net.TCPConn, into []byte) (int, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var (
		n      int
		failed error
	)
	err = raw.Read(func(fd uintptr) bool {
		for {
			if n, _, failed = unix.Recvfrom(int(fd), into, unix.MSG_TRUNC); failed != unix.EINTR {
				return failed != unix.EAGAIN
			}
		}
	})
	switch {
	case err != nil:
		return 0, err
	case failed != nil:
		return 0, &net.OpError{Op: "read", Net: "tcp", Source: conn.LocalAddr(), Addr: conn.RemoteAddr(), Err: failed}
	case n == 0 && len(into) > 0:
		return 0, io.EOF
	}
	return n, nil
}
