// Does what its words say, with Go's own network code: get=URL, lookup=NAMESERVER (a name, by UDP), interfaces.
package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

func get(url string) {
	answer, err := http.Get(url)
	if err != nil {
		fmt.Println("failed:", err)
		return
	}
	body, _ := io.ReadAll(answer.Body)
	answer.Body.Close()
	fmt.Println(answer.StatusCode, string(body))
}

func lookup(server string) {
	resolver := &net.Resolver{PreferGo: true, Dial: func(c context.Context, _, _ string) (net.Conn, error) {
		var dialer net.Dialer
		return dialer.DialContext(c, "udp", server)
	}}
	c, stop := context.WithTimeout(context.Background(), 20*time.Second)
	defer stop()
	found, err := resolver.LookupHost(c, "name.example.")
	fmt.Println(found, err)
}

func interfaces() {
	found, err := net.Interfaces()
	for _, one := range found {
		addresses, _ := one.Addrs()
		fmt.Println(one.Name, addresses)
	}
	fmt.Println("interfaces:", err)
}

func main() {
	for _, word := range os.Args[1:] {
		what, where, _ := strings.Cut(word, "=")
		switch what {
		case "get":
			get(where)
		case "lookup":
			lookup(where)
		case "interfaces":
			interfaces()
		}
	}
}
