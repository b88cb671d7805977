// Command nodeagent is what one Kubernetes node runs besides containerd, in one binary.
//
// It holds upstream's kubelet, kube-proxy and the few plugins of CoreDNS that cluster DNS needs, and
// becomes the one that its file name asks for. Only that one is constructed: kubelet and kube-proxy
// each claim the process's signal handler and global flags.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/coredns/coredns/coremain"
	_ "github.com/coredns/coredns/plugin/bind"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/template"
	"k8s.io/component-base/cli"
	kubeproxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

func main() {
	switch name := filepath.Base(os.Args[0]); name {
	case "kubelet":
		os.Exit(cli.Run(kubelet.NewKubeletCommand(context.Background())))
	case "kube-proxy":
		os.Exit(cli.Run(kubeproxy.NewProxyCommand()))
	case "coredns":
		coremain.Run()
	default:
		fmt.Fprintf(os.Stderr, "nodeagent: run me through a link named kubelet, kube-proxy or coredns (was %q)\n", name)
		os.Exit(2)
	}
}
