// Package listen opens the server's addresses and owns their connections: how many there may be, and how they close.
//
// It keeps these rules:
//
//  1. At most Limits.Connections connections are open. One more makes the connection that has waited longest for a
//     request close; while none waits, the new one waits for a place, and later ones wait in the kernel's queue. HAProxy
//     and nginx do the same. A refusal instead would turn a burst of clients into errors.
//  2. At most Limits.PerAddress of them are of one client address. One more gets a response with status 503.
//  3. A connection that the server closes after a response, while the client may still be sending, lingers: the server
//     ends its own side, and reads and discards for a bounded time and number of bytes. If it closed at once, the kernel
//     would answer the client's next bytes by a reset, and most clients then lose the response.
//  4. Stop ends lingering connections at once.
//  5. Of a connection whose requests are refused one after the other, each refusal takes longer (Refused). Clients that ask
//     again at once would otherwise take the cores from the requests that were accepted, which never wait for this.
package listen

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// lingerTime and lingerIdle limit how long a connection lingers: in all, and after the last byte. An upload that is
	// refused at its beginning and has the default maximum size, 4 MiB, ends within the time at 4 Mbit/s.
	lingerTime = 10 * time.Second
	lingerIdle = 2 * time.Second
	// maxLingering limits how many connections linger at a time. Each has a buffer of lingerBuffer bytes, so all of them
	// together have 16 MiB.
	maxLingering = 256
	lingerBuffer = 64 << 10
)

const tooManyText = "too many connections from this address"

// tooMany is the response to a connection beyond Limits.PerAddress.
var tooMany = "HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain; charset=UTF-8\r\nContent-Length: " +
	strconv.Itoa(len(tooManyText)) + "\r\nRetry-After: 1\r\nConnection: close\r\n\r\n" + tooManyText

// minWait is how long a connection must have waited for a request before it can be closed for another one. The request of
// a new connection may be on its way.
const minWait = 100 * time.Millisecond

// Limits are the limits of a Listener.
type Limits struct {
	Connections int   // 1 or more
	PerAddress  int   // of one IPv4 address or one IPv6 /64; 0: no limit
	LingerBytes int64 // that a lingering connection reads before it is closed
}

// A Listener accepts connections within its Limits. Use its ConnState as the http.Server's. It is safe for concurrent use.
type Listener struct {
	net.Listener
	limits Limits

	mu        sync.Mutex
	changed   *sync.Cond // signals that a place may be free, or that the listener has closed
	open      *list.List // of *Conn; those that wait for a request are in the order in which they began to wait
	addresses map[netip.Addr]int
	lingering int
	closed    bool // accepts no connections
	stopped   bool // lets no connection linger
}

// New returns a Listener that accepts inner's connections.
func New(inner net.Listener, limits Limits) *Listener {
	l := &Listener{Listener: inner, limits: limits, open: list.New(), addresses: map[netip.Addr]int{}}
	l.changed = sync.NewCond(&l.mu)
	return l
}

// Accept returns the next connection for which there is a place. Its type is *Conn.
func (l *Listener) Accept() (net.Conn, error) {
	for {
		inner, err := l.Listener.Accept()
		if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) {
			l.evict() // http.Server retries soon
		}
		if err != nil {
			return nil, err
		}
		c := &Conn{Conn: inner, listener: l, address: network(inner.RemoteAddr())}
		switch admitted, err := l.admit(c); {
		case err != nil:
			_ = inner.Close()
			return nil, err
		case admitted:
			return c, nil
		}
		// The new socket's buffer is empty, so this doesn't block.
		_, _ = io.WriteString(c, tooMany)
		_ = c.Close()
	}
}

// admit waits for a place for c. It returns false if c's address has too many connections; c then counts as open, but not
// against its address.
func (l *Listener) admit(c *Conn) (bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.open.Len() >= l.limits.Connections && !l.closed {
		if evicted, next := l.evictLocked(); !evicted {
			if next > 0 {
				time.AfterFunc(next, l.wake)
			}
			l.changed.Wait()
		}
	}
	if l.closed {
		return false, net.ErrClosed
	}
	c.place = l.open.PushBack(c)
	c.waitLocked()
	if l.limits.PerAddress > 0 && c.address.IsValid() {
		if l.addresses[c.address] >= l.limits.PerAddress {
			c.address = netip.Addr{}
			return false, nil
		}
		l.addresses[c.address]++
	}
	return true, nil
}

func (l *Listener) wake() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.changed.Signal()
}

func (l *Listener) evict() {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, _ = l.evictLocked()
}

// evictLocked closes the connection that has waited longest for a request, and reports whether it did. If no connection
// has waited for minWait, next is when the first one will have; 0: none waits.
func (l *Listener) evictLocked() (evicted bool, next time.Duration) {
	for place := l.open.Front(); place != nil; place = place.Next() {
		c, ok := place.Value.(*Conn)
		if !ok || !c.waiting {
			continue
		}
		if waited := time.Since(c.since); waited < minWait {
			return false, minWait - waited
		}
		_ = c.Conn.Close() // its reader sees that, and calls Close
		l.releaseLocked(c)
		return true, 0
	}
	return false, 0
}

// releaseLocked gives c's place free, once.
func (l *Listener) releaseLocked(c *Conn) {
	if c.place == nil {
		return
	}
	l.open.Remove(c.place)
	c.place = nil
	if c.address.IsValid() && l.limits.PerAddress > 0 {
		if l.addresses[c.address]--; l.addresses[c.address] == 0 {
			delete(l.addresses, c.address)
		}
	}
	l.changed.Signal()
}

// ConnState is an http.Server's ConnState. A connection waits for a request until its first byte, and between requests.
func (l *Listener) ConnState(conn net.Conn, state http.ConnState) {
	c := find(conn)
	if c == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	c.waiting = false
	if (state == http.StateNew || state == http.StateIdle) && c.place != nil {
		c.waitLocked()
	}
}

// Close stops accepting connections. Those that are open stay open.
func (l *Listener) Close() error {
	err := l.Listener.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	l.changed.Broadcast()
	return err
}

// Stop closes the lingering connections. The others will close without lingering. Call it before http.Server.Close.
func (l *Listener) Stop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stopped = true
	for place := l.open.Front(); place != nil; place = place.Next() {
		if c, ok := place.Value.(*Conn); ok && c.lingers {
			_ = c.Conn.Close()
		}
	}
}

// network returns the address that Limits.PerAddress counts: a client with an IPv6 address usually has its whole /64. It
// is invalid for a unix socket.
func network(address net.Addr) netip.Addr {
	tcp, ok := address.(*net.TCPAddr)
	if !ok {
		return netip.Addr{}
	}
	ip := tcp.AddrPort().Addr().Unmap().WithZone("")
	if ip.Is6() {
		if prefix, err := ip.Prefix(64); err == nil {
			return prefix.Addr()
		}
	}
	return ip
}

// A Conn is a connection of a Listener.
type Conn struct {
	net.Conn
	listener *Listener
	address  netip.Addr

	closing atomic.Bool
	refused atomic.Int32 // requests in a row
	// answered is set by writes since the last call of Complete: of a request that may not have been read to its end.
	//
	// Reads can't say whether the client may still be sending. net/http reads ahead, so it can have the header of this
	// request already when the one before is complete.
	answered atomic.Bool
	unwanted int64 // bytes that are next to be read, and may be dropped; only for the one who reads

	// The Listener's mu guards these.
	place   *list.Element // nil: released
	waiting bool
	since   time.Time // if waiting
	lingers bool
}

// Write is the method of net.Conn.
func (c *Conn) Write(data []byte) (int, error) {
	c.answered.Store(true)
	return c.Conn.Write(data)
}

// Close closes the connection, now or after it has lingered. It may be called more than once.
func (c *Conn) Close() error {
	if c.closing.Swap(true) {
		return nil
	}
	if c.answered.Load() && c.startToLinger() {
		go c.linger()
		return nil
	}
	return c.close()
}

// close closes the connection and gives its place free.
func (c *Conn) close() error {
	err := c.Conn.Close()
	l := c.listener
	l.mu.Lock()
	defer l.mu.Unlock()
	if c.lingers {
		c.lingers = false
		l.lingering--
	}
	l.releaseLocked(c)
	return err
}

// startToLinger reports whether the connection may linger. A lingering connection counts as one that waits for a request,
// so a new connection can take its place.
func (c *Conn) startToLinger() bool {
	l := c.listener
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stopped || l.lingering >= maxLingering || c.place == nil {
		return false
	}
	l.lingering++
	c.lingers = true
	c.waitLocked()
	return true
}

// waitLocked marks a connection that has a place as one that waits for a request.
func (c *Conn) waitLocked() {
	c.waiting, c.since = true, time.Now()
	c.listener.open.MoveToBack(c.place)
	c.listener.changed.Signal()
}

// linger ends this side of the connection, reads until the client closes its side or a limit is reached, and closes.
func (c *Conn) linger() {
	defer func() { _ = c.close() }()
	half, ok := c.Conn.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil {
		return
	}
	end := time.Now().Add(lingerTime)
	buffer, _ := discards.Get().(*[lingerBuffer]byte)
	defer discards.Put(buffer)
	for left := c.listener.limits.LingerBytes; left > 0; {
		deadline := time.Now().Add(lingerIdle)
		if deadline.After(end) {
			deadline = end
		}
		if c.SetReadDeadline(deadline) != nil {
			return
		}
		n, err := drop(c.Conn, buffer[:])
		if err != nil {
			return
		}
		left -= int64(n)
	}
}

// reset reports whether the client has reset the connection, or this side has closed it. A client that closed its socket
// is reset only by the next bytes that it receives: until then it looks like one that only ended its sending half.
func (c *Conn) reset() bool {
	socket, ok := c.Conn.(syscall.Conn)
	if !ok {
		return true
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return true
	}
	gone := true
	err = raw.Control(func(fd uintptr) {
		poll := []unix.PollFd{{Fd: int32(fd)}}
		_, err := unix.Poll(poll, 0)
		gone = err != nil || poll[0].Revents&(unix.POLLERR|unix.POLLHUP) != 0
	})
	return err != nil || gone
}

type key struct{}

// Context stores a connection where Complete and Reset find it. Use it as an http.Server's ConnContext.
func Context(ctx context.Context, conn net.Conn) context.Context {
	if c := find(conn); c != nil {
		return context.WithValue(ctx, key{}, c)
	}
	return ctx
}

// find returns the Conn in a connection that may wrap it.
func find(conn net.Conn) *Conn {
	for {
		switch c := conn.(type) {
		case *Conn:
			return c
		case interface{ NetConn() net.Conn }:
			conn = c.NetConn()
		default:
			return nil
		}
	}
}

// Complete says that a request has been read to its end, so that its connection need not linger. ctx is the request's.
func Complete(ctx context.Context) {
	if c, ok := ctx.Value(key{}).(*Conn); ok {
		c.answered.Store(false)
	}
}

// The pauses before refusals in a row: none before the first, this one before the second, and then doubled until the
// longest, which is the least Retry-After.
const (
	firstPause   = 50 * time.Millisecond
	longestPause = time.Second
)

// Refused records that a request is about to be refused because the server is busy. It returns how long that should take,
// so that a client which asks again at once doesn't use the cores. ctx is the request's.
func Refused(ctx context.Context) time.Duration {
	c, ok := ctx.Value(key{}).(*Conn)
	if !ok {
		return 0
	}
	const doublings = 5 // from the first pause beyond the longest one
	n := c.refused.Add(1)
	if n == 1 {
		return 0
	}
	return min(firstPause<<min(n-2, doublings), longestPause)
}

// Accepted records that a request wasn't refused. ctx is the request's.
func Accepted(ctx context.Context) {
	if c, ok := ctx.Value(key{}).(*Conn); ok {
		c.refused.Store(0)
	}
}

// Reset reports whether a request's connection can't carry its response any more. ctx is the request's.
func Reset(ctx context.Context) bool {
	c, ok := ctx.Value(key{}).(*Conn)
	return !ok || c.reset()
}

// Open opens an address: host:port, or unix:PATH. Only the owner and the group can connect to a socket's path. A socket
// that a dead server left behind is replaced. Closing the listener removes its path.
func Open(ctx context.Context, address string) (net.Listener, error) {
	path, isUnix := UnixPath(address)
	if !isUnix {
		return (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	}
	if len(path) > maxPath {
		return nil, fmt.Errorf("listen %s: the path of a unix socket has at most %d bytes", address, maxPath)
	}
	if err := removeStale(ctx, path); err != nil {
		return nil, err
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	const ownerAndGroup = 0o660
	if err := os.Chmod(path, ownerAndGroup); err != nil {
		_ = l.Close()
		return nil, err
	}
	return l, nil
}
