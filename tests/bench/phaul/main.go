// A driver for go-criu's phaul (checkpoint, rounds and restore by its own rules), as a peer in the benchmark.
//
//	phaul serve DIRECTORY                       on the target: prints its port, ends after one move
//	phaul move PID HOST:PORT DIRECTORY [tcp]    on the source: exit status 0 when the process has moved
//
// phaul leaves to its caller what is here: two connections (calls, pages), the copy of the last images and the restore.
package main

import (
	"errors"
	"fmt"
	"net"
	"net/rpc"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	criu "github.com/checkpoint-restore/go-criu/v7"
	"github.com/checkpoint-restore/go-criu/v7/phaul"
	criurpc "github.com/checkpoint-restore/go-criu/v7/rpc"
	"google.golang.org/protobuf/proto"
)

type ( // what calls carry has to be exported
	None  struct{}
	Image struct {
		Name string
		Data []byte
	}
	Last struct {
		Images []Image
		TCP    bool
	}
	server struct {
		*phaul.Server
		done chan error
	}
	source struct {
		criu.NoNotify
		calls  *rpc.Client
		folder string
		tcp    bool
	}
)

func (s *server) Start(None, *None) error { return s.Server.StartIter() }
func (s *server) Stop(None, *None) error  { return s.Server.StopIter() }

// Restore puts the last images beside the pages that came, and restores.
func (s *server) Restore(all Last, _ *None) error {
	folder := s.LastImagesDir()
	for _, one := range all.Images {
		if err := os.WriteFile(filepath.Join(folder, one.Name), one.Data, 0o600); err != nil {
			return err
		}
	}
	words := []string{"restore", "-d", "-D", folder, "-o", "restore.log"}
	if all.TCP {
		words = append(words, "--tcp-established")
	}
	err := exec.Command("criu", words...).Run()
	s.done <- err
	return err
}

func (s *source) StartIter() error { return s.calls.Call("Server.Start", None{}, &None{}) }
func (s *source) StopIter() error  { return s.calls.Call("Server.Stop", None{}, &None{}) }

// DumpCopyRestore freezes and dumps; PostDump does the rest before criu ends the process.
func (s *source) DumpCopyRestore(cr *criu.Criu, c phaul.Config, parent string) error {
	s.folder = filepath.Join(c.Wdir, "last")
	if err := os.Mkdir(s.folder, 0o700); err != nil {
		return err
	}
	folder, err := os.Open(s.folder)
	if err != nil {
		return err
	}
	defer folder.Close()
	return cr.Dump(&criurpc.CriuOpts{
		Pid: proto.Int32(c.Pid), ImagesDirFd: proto.Int32(int32(folder.Fd())), ParentImg: proto.String(parent),
		TrackMem: proto.Bool(true), TcpEstablished: proto.Bool(s.tcp), NotifyScripts: proto.Bool(true),
		LogLevel: proto.Int32(4), LogFile: proto.String("dump.log"),
		Ps: &criurpc.CriuPageServerInfo{Fd: proto.Int32(int32(c.Memfd))},
	}, s)
}

// PostDump sends the images that are no pages and waits for the restore; an error lets the process run on here.
func (s *source) PostDump() error {
	if err := s.StopIter(); err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(s.folder, "*.img"))
	all := Last{TCP: s.tcp}
	for _, path := range files {
		name := filepath.Base(path)
		if strings.HasPrefix(name, "pages-") || strings.HasPrefix(name, "pagemap-") {
			continue
		}
		data, failed := os.ReadFile(path)
		err = errors.Join(err, failed)
		all.Images = append(all.Images, Image{name, data})
	}
	if err != nil {
		return err
	}
	return s.calls.Call("Server.Restore", all, &None{})
}

// forCriu gives a connection's descriptor in the form that a started criu inherits.
func forCriu(connection net.Conn) int {
	file, err := connection.(*net.TCPConn).File()
	check(err)
	number, err := syscall.Dup(int(file.Fd()))
	check(err)
	return number
}

func serve(folder string) {
	listener, err := net.Listen("tcp", ":0")
	check(err)
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	calls, err := listener.Accept()
	check(err)
	pages, err := listener.Accept()
	check(err)
	one, err := phaul.MakePhaulServer(phaul.Config{Memfd: forCriu(pages), Wdir: folder})
	check(err)
	ours := &server{one, make(chan error, 1)}
	check(rpc.RegisterName("Server", ours))
	rpc.ServeConn(calls) // until the source has what it wants
	select {
	case err = <-ours.done:
		check(err)
	default:
		check(errors.New("the source has gone"))
	}
}

func move(pid, address, folder string, tcp bool) {
	calls, err := net.Dial("tcp", address)
	check(err)
	pages, err := net.Dial("tcp", address)
	check(err)
	number, err := strconv.Atoi(pid)
	check(err)
	config := phaul.Config{Pid: int32(number), Memfd: forCriu(pages), Wdir: folder}
	ours := &source{calls: rpc.NewClient(calls), tcp: tcp}
	client, err := phaul.MakePhaulClient(ours, ours, config)
	check(err)
	check(client.Migrate())
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func main() {
	switch words := os.Args[1:]; {
	case len(words) == 2 && words[0] == "serve":
		serve(words[1])
	case len(words) >= 4 && words[0] == "move":
		move(words[1], words[2], words[3], len(words) == 5)
	default:
		check(errors.New("usage: phaul serve DIRECTORY | phaul move PID HOST:PORT DIRECTORY [tcp]"))
	}
}
