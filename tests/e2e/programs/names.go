// names SERVER-NAME IPV4: what Go's own resolver says, and a page by name.
package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sort"
	"strings"
)

func main() {
	resolver := &net.Resolver{PreferGo: true, StrictErrors: true}
	all := context.Background()
	if hosts, err := resolver.LookupHost(all, os.Args[1]); err != nil {
		fmt.Println("host", err)
	} else {
		sort.Strings(hosts)
		fmt.Println("host", strings.Join(hosts, ","))
	}
	names, err := resolver.LookupAddr(all, os.Args[2])
	fmt.Println("ptr", strings.TrimSuffix(strings.Join(names, ","), "."), said(err))
	_, services, err := resolver.LookupSRV(all, "80", "tcp", os.Args[1])
	for _, one := range services {
		fmt.Println("srv", strings.TrimSuffix(one.Target, "."), one.Port)
	}
	fmt.Print(said(err))
	page, err := http.Get("http://" + os.Args[1] + "/")
	if err != nil {
		fmt.Println("get", err)
		return
	}
	body, _ := io.ReadAll(page.Body)
	fmt.Print("get ", string(body))
}

func said(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
